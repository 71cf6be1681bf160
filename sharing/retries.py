"""Calls of servers, the Hub above all, that outlast a passing fault, and errors that say what to do."""

import errno
import time

import httpx2
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

PASSING = (408, 429, 500, 502, 503, 504)  # statuses after which the next try may have more luck
TRIES = 5
LONGEST_WAIT = 60  # seconds
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class HubError(OSError):
    """The Hub refuses or cannot be reached; the message says what to do."""


def check_repo(repo):
    """Raise `ValueError` unless this can be the name of a repository, `user/name`."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} cannot be a name on the Hub: {error}") from None
    if repo.count("/") != 1:
        raise ValueError(f"{repo!r} must be user/name, with the user or organisation that it belongs to")


def retried(call):
    """
    What `call()` of a server gives; called again after faults that may pass, `TRIES` times at most, with waits of 1,
    2, 4 and 8 seconds, or what the server asks for (`Retry-After`), up to `LONGEST_WAIT` seconds. The last fault is
    raised as it is.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except (httpx2.HTTPError, OSError, RuntimeError) as error:
            fault = _cause(error)
            if attempt == TRIES or not _may_pass(fault):
                raise
            time.sleep(min(_wanted_wait(fault) or 2 ** (attempt - 1), LONGEST_WAIT))


def patiently(repo, call, *args, **kwargs):
    """
    Call the Hub as [`retried`] does: huggingface_hub itself repeats transfers, but neither commits nor questions about
    repositories.

    Args:
        repo (`str`): what to name in an error.
        call: a function of huggingface_hub, which is given the other arguments.

    Raises:
        HubError: whatever went wrong, in one line.
    """
    try:
        return retried(lambda: call(*args, **kwargs))
    except (httpx2.TransportError, OSError, RuntimeError) as error:
        raise HubError(_explained(repo, error, _cause(error))) from None


def _cause(error):
    """The HTTP error behind one that only says that a transfer failed."""
    cause = error.__cause__
    return cause if cause is not None and not isinstance(error, (httpx2.HTTPError, OfflineModeIsEnabled)) else error


def status(error):
    """The HTTP status behind an error, None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_pass(error):
    return status(error) in PASSING if status(error) is not None else isinstance(error, httpx2.TransportError)


def _wanted_wait(error):
    wanted = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return int(wanted) if wanted.isdigit() else None


def _explained(repo, error, fault):
    code = status(fault)
    if isinstance(fault, OfflineModeIsEnabled):
        return f"{repo} cannot be reached while HF_HUB_OFFLINE is set: unset it to ask the Hub"
    if getattr(fault, "errno", None) in NO_ROOM or getattr(error, "errno", None) in NO_ROOM:
        return f"no room for {repo} in {HF_HUB_CACHE}: make room there, or set HF_HOME to another disk; run it again"
    if code == 401 and not isinstance(fault, RepositoryNotFoundError):
        return "the Hub does not know your token: run `hf auth login`, or set HF_TOKEN to one of yours"
    if isinstance(fault, RevisionNotFoundError):
        return f"{repo} has no such revision"
    if isinstance(fault, RepositoryNotFoundError) or code == 404:
        return f"there is no {repo} on the Hub, or your token may not see it: check the name, or run `hf auth login`"
    if code == 403:
        return f"your token may not write to {repo}: use a token with write access, or a name of your own"
    if code == 429:
        return f"the Hub asks to wait before {repo} is asked for again (429): run it again later"
    if code in PASSING:
        return f"the Hub cannot answer for {repo} ({code}): run it again later; what it has is not sent again"
    if code is not None:
        said = getattr(fault, "server_message", None) or " ".join(str(fault).split())
        return f"the Hub refuses {repo} ({code}): {said}"
    if isinstance(error, LocalEntryNotFoundError):
        return f"{repo} is not in the cache, and the Hub cannot be reached: check the connection, and run it again"
    if isinstance(fault, OSError) and not isinstance(fault, ConnectionError | TimeoutError):
        return f"{repo}: {fault}"
    reason = " ".join(str(fault).split()) or type(fault).__name__
    if isinstance(fault, httpx2.ConnectError):
        return f"the Hub cannot be reached for {repo} ({reason}): check the connection, and run it again"
    return f"the connection to the Hub ended ({reason}): run it again; what arrived of {repo} is not sent again"
