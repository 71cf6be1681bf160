"""A small Hugging Face Hub in memory, on loopback, for tests with the real client.

    with HubServer({"hf_alice": "alice"}) as hub:
        hub.faults.append(Fault("POST", "/commit/", 503, times=2))
        subprocess.run(command, env=os.environ | hub.environment("hf_alice", tmp_path))
        assert "config.json" in hub.repos["model", "alice/tiny"].files

The client reads its environment when it is imported, so it needs a process of its own. `HF_HUB_DISABLE_XET=1` is part
of that environment: where hf_xet is installed the client sends every large file by Xet, whatever a server answers.

Written after the sources of huggingface_hub 2.4: hf_api, _commit_api, _upload_pipeline, lfs, file_download, _http.
"""

import base64
import hashlib
import json
import re
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".arrow", ".bin", ".npy", ".onnx", ".parquet", ".pt", ".safetensors", ".zip")
LFS_SIZE = 10_000_000  # a larger file is a large file whatever its name
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


class Request(NamedTuple):
    method: str
    path: str  # with the query
    size: int  # bytes of the body that arrived
    user: str | None  # who asked; the token is not kept
    status: int  # of the answer; 0 where the connection ended before or within it


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path, with its query, matches.

    Args:
        action: a status, or
            "cut": half of the body is read, or half of the answer sent where there is no body; the connection ends.
        retry_after: seconds, for the header of that name.
    """

    method: str
    path_regex: str
    action: int | str
    times: int = 1
    retry_after: int | None = None

    def meets(self, method, path):
        return method == self.method and re.search(self.path_regex, unquote(path))


class Refusal(Exception):
    def __init__(self, status, message, code=None, **headers):
        super().__init__(message)
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = status, {"error": message}, headers


@dataclass
class Commit:
    sha: str
    parent: str | None
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    kind: str  # "model", "dataset" or "space"
    name: str  # "owner/name"
    private: bool = False
    sdk: str | None = None  # of a space
    commits: list[Commit] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)  # "main", other branches, "refs/pr/1" → sha
    objects: dict[str, bytes] = field(default_factory=dict)  # large files that came, by sha256, committed or not

    @property
    def files(self):
        return self.at("main").files

    def at(self, revision):
        for commit in self.commits:
            if commit.sha == self.refs.get(revision, revision):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, ref, message, files, parent=None):
        sha = hashlib.sha1(f"{self.kind} {self.name} {len(self.commits)} {message}".encode()).hexdigest()
        self.commits.append(Commit(sha, parent, message, files))
        self.refs[ref] = sha
        return sha


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def metadata(readme):
    """The YAML at the head of a model card."""
    block = re.match(r"---\r?\n(.*?)\r?\n---", readme, re.DOTALL)
    return (yaml.safe_load(block[1]) if block else None) or {}


class HubServer:
    """`requests` and `repos` hold what came; `faults` is what goes wrong: the first rule that matches is used up first.

    Args:
        tokens: user name by token. A user writes in the namespace of that name, and alone reads what is private there.
    """

    def __init__(self, tokens):
        self.tokens = tokens
        self.repos = {}  # ("model", "owner/name") → Repo
        self.requests, self.faults = [], []
        self.lock = threading.Lock()

    def __enter__(self):
        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.listener.hub, self.listener.connections = self, []
        self.url = f"http://127.0.0.1:{self.listener.server_port}"
        threading.Thread(target=self.listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.listener.shutdown()
        self.listener.server_close()
        for connection in self.listener.connections:  # those that clients keep open would go on being served
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def environment(self, token, home):
        """For the client's process: its Hub is this server, its cache is in `home`."""
        switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": token, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"} | switches

    def add(self, name, files=None, kind="model", private=False, sdk=None):
        """A new repo with the given files, and those that the Hub itself puts there."""
        repo = self.repos[kind, name] = Repo(kind, name, private, sdk)
        own = {".gitattributes": "".join(f"*{suffix} filter=lfs\n" for suffix in LFS_SUFFIXES).encode()}
        if kind == "space":
            own["README.md"] = f"---\nsdk: {sdk}\n---\n".encode()
        repo.commit("main", "initial commit", own | (files or {}))
        return repo

    def user(self, authorization):
        token = (authorization or "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def find(self, kinds, owner, name, user, need="read"):
        """The repo, if the user may "read" it, "suggest" a change (whoever reads it, once logged in) or "write"."""
        repo = self.repos.get((kinds.removesuffix("s"), f"{owner}/{name}"))
        if repo is None or (repo.private and user != owner):  # a stranger cannot tell the one from the other
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if need != "read" and user is None:
            raise Refusal(401, "Invalid username or password.")
        if need == "write" and user != owner:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def answer(self, method, path, query, user, body, part):
        """Status, content and headers; `part` is the Range header."""
        parts = [unquote(name) for name in path.strip("/").split("/")]
        if parts[0] not in ("api", "datasets", "spaces"):
            parts.insert(0, "models")  # whose pages alone have no prefix
        if user is None and parts[1:2] in (["whoami-v2"], ["repos"]):
            raise Refusal(401, "Invalid username or password.")
        match [method, *parts]:
            case ["GET", "api", "whoami-v2"]:
                rights = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
                return 200, {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": rights}, {}
            case ["POST", "api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}, {}
            case ["POST", "api", "repos", "create"]:
                return self.create(user, json.loads(body))
            case ["GET", "api", kinds, owner, name]:
                return 200, self.info(self.find(kinds, owner, name, user), "main"), {}
            case ["GET", "api", kinds, owner, name, "revision", revision]:
                return 200, self.info(self.find(kinds, owner, name, user), revision), {}
            case ["GET", "api", kinds, owner, name, "tree", revision, *folder]:
                commit = self.find(kinds, owner, name, user).at(revision)
                return 200, self.tree(commit, "/".join(folder), "true" in query.get("recursive", ())), {}
            case ["POST", "api", kinds, owner, name, "branch", branch]:
                repo = self.find(kinds, owner, name, user, "write")
                if branch in repo.refs:
                    raise Refusal(409, "Reference already exists")
                repo.refs[branch] = repo.at(json.loads(body).get("startingPoint", "main")).sha
                return 200, {}, {}
            case ["POST", "api", kinds, owner, name, "preupload" | "commit", revision]:
                suggested = "create_pr" in query or revision.startswith("refs/pr/")
                repo = self.find(kinds, owner, name, user, "suggest" if suggested else "write")
                if parts[4] == "commit":
                    return 200, self.commit(repo, revision, body, "create_pr" in query), {}
                there = repo.at(revision).files
                return 200, {"files": [self.preupload(there, file) for file in json.loads(body)["files"]]}, {}
            case ["POST", kinds, owner, name, "info", "lfs", "objects", "batch"]:
                repo = self.find(kinds, owner, name.removesuffix(".git"), user, "suggest")
                return 200, {"objects": [self.batch(repo, file) for file in json.loads(body)["objects"]]}, {}
            case ["PUT" | "POST", kinds, owner, name, "lfs", oid]:  # storage is asked without a token
                return self.store(self.repos[kinds.removesuffix("s"), f"{owner}/{name}"], method, oid, body)
            case ["GET" | "HEAD", kinds, owner, name, "resolve", revision, *file]:
                return self.resolve(self.find(kinds, owner, name, user).at(revision), "/".join(file), part)
        message = f"Repository not found (or nothing here that answers {method} {path})"
        raise Refusal(404 if user else 401, message, "RepoNotFound")

    def page(self, repo):
        return f"{self.url}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.name}"

    def is_large(self, path, size):
        return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)

    def describe(self, path, data):
        """A file in a listing, with git's hash of it or, where it is large, of the pointer that git has instead."""
        if not self.is_large(path, len(data)):
            return {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
        sha = hashlib.sha256(data).hexdigest()
        pointer = POINTER.format(sha, len(data)).encode()
        lfs = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": len(data), "oid": git_hash(pointer), "lfs": lfs}

    def etag(self, path, data):
        entry = self.describe(path, data)
        return entry.get("lfs", entry)["oid"]

    def create(self, user, wanted):
        kind, owner = wanted.get("type", "model"), wanted.get("organization") or user
        if owner != user:
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if repo := self.repos.get((kind, f"{owner}/{wanted['name']}")):
            return 409, {"error": f"You already created this {kind} repo", "url": self.page(repo)}, {}
        private = wanted.get("visibility") == "private"
        repo = self.add(f"{owner}/{wanted['name']}", kind=kind, private=private, sdk=wanted.get("sdk"))
        return 200, {"url": self.page(repo), "name": repo.name}, {}

    def info(self, repo, revision):
        commit = repo.at(revision)
        card = metadata(commit.files.get("README.md", b"").decode())
        library = card.get("library_name", "transformers" if "config.json" in commit.files else None)
        listed = [self.describe(path, data) for path, data in commit.files.items()]
        files = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], "lfs": e.get("lfs")} for e in listed]
        answer = {"id": repo.name, "sha": commit.sha, "private": repo.private, "gated": False, "sdk": repo.sdk}
        answer |= {"cardData": card, "pipeline_tag": card.get("pipeline_tag"), "tags": card.get("tags", [])}
        return answer | {"library_name": library, "siblings": files}

    def tree(self, commit, folder, recursive):
        entries, head = {}, f"{folder}/" if folder else ""
        for path, data in commit.files.items():
            entries[path] = self.describe(path, data)
            for above in map(str, PurePosixPath(path).parents[:-1]):
                entries[above] = {"type": "directory", "path": above, "size": 0, "oid": git_hash(above.encode())}
        inside = {path.removeprefix(head): entry for path, entry in sorted(entries.items()) if path.startswith(head)}
        if folder and not inside:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
        return [entry for path, entry in inside.items() if recursive or "/" not in path]

    def preupload(self, there, file):
        """Which way a file goes, and the hash of what is there: the client leaves out a file that has the same."""
        path, mode = file["path"], "lfs" if self.is_large(file["path"], file["size"]) else "regular"
        oid = self.etag(path, there[path]) if path in there else None
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def commit(self, repo, ref, body, create_pr):
        header, *operations = (json.loads(line) for line in body.splitlines())
        base, message = repo.at(ref), header["value"]["summary"]
        if ref not in repo.refs:
            raise Refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        if header["value"].get("parentCommit", base.sha) != base.sha:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(base.files)
        for operation in operations:
            action, value, path = operation["key"], operation["value"], operation["value"]["path"]
            if action == "file":
                files[path] = base64.b64decode(value["content"])
            elif action == "lfsFile" and value["oid"] in repo.objects:
                files[path] = repo.objects[value["oid"]]
            elif action == "lfsFile":
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            elif action == "deletedFolder":
                files = {name: data for name, data in files.items() if not name.startswith(path.rstrip("/") + "/")}
            elif files.pop(path, None) is None:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
        sha = repo.commit(f"refs/pr/{number}" if create_pr else ref, message, files, base.sha)
        answer = {"commitOid": sha, "commitUrl": f"{self.page(repo)}/commit/{sha}"}
        return answer | ({"pullRequestUrl": f"{self.page(repo)}/discussions/{number}"} if create_pr else {})

    def batch(self, repo, file):
        """Where to send a large file; what has no `actions` is not sent."""
        place = {"href": f"{self.page(repo)}/lfs/{file['oid']}"}
        return file | ({} if file["oid"] in repo.objects else {"actions": {"upload": place, "verify": place}})

    def store(self, repo, method, oid, body):
        if method == "PUT" and hashlib.sha256(body).hexdigest() == oid:
            repo.objects[oid] = body
        if oid not in repo.objects:
            raise Refusal(400, "What came does not have the hash that was announced")
        return 200, {}, {}

    def resolve(self, commit, path, part):
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        data = commit.files[path]
        headers["ETag"] = f'"{self.etag(path, data)}"'
        if self.is_large(path, len(data)):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        if not (bounds := re.fullmatch(r"bytes=(\d+)-(\d*)", part or "")):
            return 200, data, headers
        start, last = int(bounds[1]), min(int(bounds[2] or len(data)), len(data) - 1)
        return 206, data[start : last + 1], headers | {"Content-Range": f"bytes {start}-{last}/{len(data)}"}


class Listener(ThreadingHTTPServer):
    daemon_threads = True

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request, address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that goes away is no mistake here
            super().handle_error(request, address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *message):
        pass

    def serve(self):
        hub, url, user = self.server.hub, urlsplit(self.path), None
        with hub.lock:
            fault = next((fault for fault in hub.faults if fault.meets(self.command, self.path)), None)
            if fault:
                fault.times -= 1
                if fault.times <= 0:
                    hub.faults.remove(fault)
        action = fault and fault.action
        half, length = action == "cut", int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if half else length)
        whole = len(body) == length  # a client may go away too; what came in part is not carried out
        with hub.lock:
            try:
                user = hub.user(self.headers.get("Authorization"))
                if isinstance(action, int):
                    after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                    raise Refusal(action, "the test asked for this", **after)
                if whole:
                    query, part = parse_qs(url.query), self.headers.get("Range")
                    status, content, headers = hub.answer(self.command, url.path, query, user, body, part)
            except Refusal as refusal:
                status, content, headers = refusal.answer
            answered = whole and not half
            hub.requests.append(Request(self.command, self.path, len(body), user, status if answered else 0))
        if whole and not (half and self.command == "HEAD"):  # a HEAD has no half
            self.send(status, content if isinstance(content, bytes) else json.dumps(content).encode(), headers, half)
        if not answered:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def send(self, status, content, headers, half):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
