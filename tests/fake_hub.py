"""The Hugging Face hub's HTTP as huggingface_hub speaks it, on 127.0.0.1: repositories, commits, downloads.

It keeps files and history in memory, remembers every request, and can be told to fail. Large files come by LFS's basic
transfer where clients have HF_HUB_DISABLE_XET set. Else they go to a folder, which hf_xet itself writes, and the fake
knows only their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Commit:
    """A state of a branch."""

    id: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """Branches, each with its commits, the latest last."""

    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch or a commit id names."""
        if revision in self.branches:
            return self.branches[revision][-1]
        every = [commit for commits in self.branches.values() for commit in commits]
        return next((commit for commit in every if commit.id == revision), None)


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Hub:
    """State of the fake.

    Attributes:
        tokens: who has which, and what it may do: (user, read or write).
        repos: by owner/name.
        objects: large files, by SHA-256.
        xet: folder for those that come by xet; there the fake knows only a hash.
        requests: everything that was asked.
        before: called with each request; may return (status, message) to refuse it, or raise ConnectionError to
            drop the connection.
        after: the same, after the request was carried out and before it is answered.
    """

    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    xet: str = ""
    requests: list[Request] = field(default_factory=list)
    before: Callable[[Request], tuple[int, str] | None] = lambda request: None
    after: Callable[[Request], None] = lambda request: None
    address: str = ""

    def create(self, id: str, private: bool = True, files: dict[str, bytes] | None = None) -> Repo:
        """A repository with its first commit, as the real hub makes one."""
        self.repos[id] = repo = Repo(private)
        self.commit(id, "main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        return repo

    def commit(self, id: str, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        """Put a new state on a branch."""
        commits = self.repos[id].branches.setdefault(branch, [])
        digest = hashlib.sha1(f"{id} {branch} {message} {len(commits)}".encode()).hexdigest()
        commits.append(Commit(digest, message, files))
        return commits[-1]

    def asked(self, pattern: str) -> list[Request]:
        """Requests whose `METHOD path` matches."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.path}")]


class Refused(Exception):  # noqa: N818
    """An answer that is not 200; `more` goes into its body."""

    def __init__(self, status: int, message: str, code: str = "", more: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more or {}


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The server's handler, bound to a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Nothing on the terminal."""

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.read_chunks()
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            hub.requests.append(request)
            try:
                if (refused := hub.before(request)) is not None:
                    raise Refused(*refused)
                value, extra = answer(hub, request)
                hub.after(request)
            except Refused as end:
                extra = {"X-Error-Message": end.message} | ({"X-Error-Code": end.code} if end.code else {})
                self.reply(end.status, json.dumps({"error": end.message, **end.more}).encode(), extra)
            except ConnectionError:
                self.close_connection = True
            else:
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.reply(200, content, extra)

        do_GET = do_POST = do_PUT = do_HEAD = do

        def read_chunks(self) -> bytes:
            parts: list[bytes] = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def reply(self, status: int, content: bytes, extra: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def answer(hub: Hub, request: Request) -> tuple[object, dict[str, str]]:
    """What the hub says, with headers of its own."""
    path = urlsplit(request.path).path
    for method, pattern, function in ROUTES:
        if request.method in method and (match := re.fullmatch(pattern, path)):
            said = function(hub, request, *map(unquote, match.groups()))
            return said if isinstance(said, tuple) else (said, {})
    raise Refused(501, f"the fake has no {request.method} {path}")


def user(hub: Hub, request: Request) -> tuple[str, str]:
    """Name and role behind the token."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token not in hub.tokens:
        raise Refused(401, "Invalid credentials in Authorization header")
    return hub.tokens[token]


def readable(hub: Hub, request: Request, id: str) -> Repo:
    repo = hub.repos.get(id)
    if repo is None or (repo.private and user(hub, request)[0] != id.split("/")[0]):
        raise Refused(404, "Repository not found", "RepoNotFound")
    return repo


def writable(hub: Hub, request: Request, id: str) -> Repo:
    repo = readable(hub, request, id)
    name, role = user(hub, request)
    if role != "write" or name != id.split("/")[0]:
        raise Refused(403, "You don't have the right to write here")
    return repo


def state(repo: Repo, revision: str) -> Commit:
    commit = repo.at(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def who_am_i(hub: Hub, request: Request) -> object:
    name, role = user(hub, request)
    return {"type": "user", "name": name, "orgs": [], "auth": {"type": "access_token", "accessToken": {"role": role}}}


def create_repo(hub: Hub, request: Request) -> object:
    wanted = json.loads(request.body)
    name, role = user(hub, request)
    owner = wanted.get("organization") or name
    id = f"{owner}/{wanted['name']}"
    if owner != name or role != "write":
        raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    if id in hub.repos:
        raise Refused(409, "You already created this model repo", more={"url": f"{hub.address}/{id}"})
    hub.create(id, wanted.get("visibility") == "private")
    return {"url": f"{hub.address}/{id}", "id": id}


def model_info(hub: Hub, request: Request, id: str, revision: str = "main") -> object:
    repo = readable(hub, request, id)
    commit = state(repo, revision)
    return {
        "_id": "0", "id": id, "modelId": id, "sha": commit.id, "private": repo.private, "tags": [], "downloads": 0,
        "siblings": [{"rfilename": name} for name in commit.files],
    }  # fmt: skip


def create_branch(hub: Hub, request: Request, id: str, branch: str) -> object:
    repo = writable(hub, request, id)
    if branch in repo.branches:
        raise Refused(409, "Reference already exists")
    if branch.startswith("refs/"):
        raise Refused(400, "Invalid reference for a branch")
    repo.branches[branch] = list(repo.branches["main"])
    return {}


def validate_yaml(hub: Hub, request: Request) -> object:
    text = json.loads(request.body)["content"]
    if not text.startswith("---\n"):
        return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    return {"errors": [], "warnings": []}


def preupload(hub: Hub, request: Request, id: str, revision: str) -> object:
    files = state(writable(hub, request, id), revision).files
    return {"files": [mode_of(file["path"], files) for file in json.loads(request.body)["files"]]}


def mode_of(path: str, files: dict[str, bytes]) -> object:
    """How a file is to be uploaded, and the id of what is there: git's for small files, SHA-256 for large ones."""
    large, old = path.endswith(".safetensors"), files.get(path)
    oid = None
    if old is not None:
        oid = hashlib.sha256(old).hexdigest() if large else hashlib.sha1(b"blob %d\0" % len(old) + old).hexdigest()
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def lfs_batch(hub: Hub, request: Request, id: str) -> object:
    writable(hub, request, id)
    objects: list[object] = []
    for wanted in json.loads(request.body)["objects"]:
        actions = {
            "upload": {"href": f"{hub.address}/storage/{wanted['oid']}"},
            "verify": {"href": f"{hub.address}/{id}.git/info/lfs/objects/verify"},
        }
        objects.append(wanted | ({} if wanted["oid"] in hub.objects else {"actions": actions}))
    return {"transfer": "basic", "objects": objects}


def store(hub: Hub, request: Request, oid: str) -> object:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refused(400, "the content has another hash")
    hub.objects[oid] = request.body
    return {}


def verify(hub: Hub, request: Request, id: str) -> object:
    writable(hub, request, id)
    wanted = json.loads(request.body)
    if len(hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise Refused(404, "no such object")
    return {}


def xet_token(hub: Hub, request: Request, id: str, revision: str) -> object:
    writable(hub, request, id)
    return {"casUrl": f"local://{hub.xet}", "accessToken": "for-xet-alone", "exp": int(time.time()) + 3600}


def make_commit(hub: Hub, request: Request, id: str, branch: str) -> object:
    files = dict(state(writable(hub, request, id), branch).files)
    lines = [json.loads(line) for line in request.body.splitlines()]
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in hub.objects and not hub.xet:
                raise Refused(400, f"no content for {value['path']}")
            files[value["path"]] = hub.objects.get(value["oid"], f"sha256 {value['oid']}".encode())
        else:
            assert line["key"] == "deletedFile"
            del files[value["path"]]
    made = hub.commit(id, branch, lines[0]["value"]["summary"], files)
    return {"commitUrl": f"{hub.address}/{id}/commit/{made.id}", "commitOid": made.id}


def resolve(hub: Hub, request: Request, id: str, revision: str, path: str) -> tuple[object, dict[str, str]]:
    commit = state(readable(hub, request, id), revision)
    if path not in commit.files:
        raise Refused(404, "Entry not found", "EntryNotFound")
    content = commit.files[path]
    return content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit.id}


def tree(hub: Hub, request: Request, id: str, revision: str, folder: str | None = None) -> object:
    commit = state(readable(hub, request, id), revision)
    if folder:
        raise Refused(404, "Entry not found", "EntryNotFound")
    return [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in commit.files.items()
    ]


ID = r"([^/]+/[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", who_am_i),
    ("POST", r"/api/repos/create", create_repo),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("GET", rf"/api/models/{ID}", model_info),
    ("GET", rf"/api/models/{ID}/revision/([^/]+)", model_info),
    ("POST", rf"/api/models/{ID}/branch/([^/]+)", create_branch),
    ("POST", rf"/api/models/{ID}/preupload/([^/]+)", preupload),
    ("POST", rf"/api/models/{ID}/commit/([^/]+)", make_commit),
    ("GET", rf"/api/models/{ID}/xet-write-token/([^/]+)", xet_token),
    ("GET", rf"/api/models/{ID}/tree/([^/]+)/?(.*)", tree),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/{ID}\.git/info/lfs/objects/verify", verify),
    ("PUT", r"/storage/([0-9a-f]{64})", store),
    (("GET", "HEAD"), rf"/{ID}/resolve/([^/]+)/(.+)", resolve),
]
