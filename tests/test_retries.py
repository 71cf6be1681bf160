"""Servers that fail for a while, or for good: how long is waited, and what is said."""

import errno
import re

import httpx2
import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vqafusion.sharing.retries import HubError, check_repo, patiently

REPO = "alice/tiny"


def answered(status, kind=HfHubHTTPError, **headers):
    request = httpx2.Request("GET", "http://hub")
    return kind("said", response=httpx2.Response(status, headers=headers, request=request))


@pytest.fixture
def asked(monkeypatch):
    """Asks a Hub where each call ends in this error: how many seconds are waited, and what is said in the end."""

    def ask(error, cause=None):
        def fail():
            raise error from cause

        waits = []
        monkeypatch.setattr("vqafusion.sharing.retries.time.sleep", waits.append)
        with pytest.raises(HubError) as told:
            patiently(REPO, fail)
        return waits, str(told.value)

    return ask


@pytest.mark.parametrize(
    "wanted, waited",
    [
        ({"Retry-After": "3"}, [3] * 4),
        ({"Retry-After": "9999"}, [60] * 4),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, [1, 2, 4, 8]),
        ({}, [1, 2, 4, 8]),
    ],
)
def test_a_server_is_waited_for_as_it_asks_but_not_for_hours(asked, wanted, waited):
    assert asked(answered(503, **wanted)) == (waited, asked(answered(503))[1])
    assert asked(OSError("a transfer failed"), answered(503, **wanted))[0] == waited


@pytest.mark.parametrize(
    "error, cause, words",
    [
        *((answered(status), None, f"cannot answer for {REPO} ({status})") for status in (408, 500, 502, 503, 504)),
        (answered(429), None, "asks to wait"),
        (httpx2.ConnectError("no route"), None, f"cannot be reached for {REPO} (no route)"),
        (httpx2.ReadError("cut"), None, "the connection to the Hub ended (cut)"),
        (RuntimeError("of a transfer"), answered(503), f"cannot answer for {REPO} (503)"),
    ],
)
def test_faults_that_may_pass_are_waited_for(asked, error, cause, words):
    waits, said = asked(error, cause)
    assert waits == [1, 2, 4, 8] and words in said


@pytest.mark.parametrize(
    "error, words",
    [
        (answered(403), "may not write to alice/tiny"),
        (answered(401), "does not know your token"),
        (answered(401, RepositoryNotFoundError), "there is no alice/tiny on the Hub"),
        (answered(404, RevisionNotFoundError), "alice/tiny has no such revision"),
        (LocalEntryNotFoundError("not there"), "alice/tiny is not in the cache"),
        (ConnectionResetError("reset"), "the connection to the Hub ended (reset)"),
        *((OSError(number, "full"), "no room for alice/tiny") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    ],
)
def test_faults_that_stay_are_told_at_once(asked, error, words):
    waits, said = asked(error)
    assert waits == [] and words in said


@pytest.mark.parametrize("name", ["bare", "a/b/c", "alice/ti ny", "alice/..", "../../etc"])
def test_impossible_names(name):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        check_repo(name)
