"""A Hugging Face hub of a few repositories, by the protocol that huggingface_hub speaks with the real one."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_LARGE_BYTES = 1000
"""Files from this size on are kept as the hub keeps large ones: by their SHA-256, at another address."""
_PATH = re.compile(r"/(?:api/models/)?(?P<name>[\w.-]+/[\w.-]+)(/(?P<kind>revision|tree|resolve)/(?P<rest>[^?]+))?")


@dataclass(kw_only=True)
class Repository:
    """A repository: its commits, each a folder's files, and what its branches name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, folder: Path, branch: str = "main") -> str:
        """Add what is in a folder as a branch's next commit."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        sha = hashlib.sha1(b"".join([*files.values(), str(len(self.commits)).encode()])).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha


@dataclass(kw_only=True)
class Hub:
    """What is there, and what was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of each."""
    served_bytes: int = 0
    """Of all files."""
    cut_after_bytes: int | None = None
    """A connection ends after so many bytes of a large file; never where it is None."""
    endpoint: str = ""
    storage: str = ""
    """Where large files are: another host, whose answers nobody takes for the hub's."""

    def take_the_place_of_the_real_one(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let this process ask this hub, and keep what it gets in `cache`."""
        constants = "huggingface_hub.constants"
        patch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
        patch.setattr(f"{constants}.ENDPOINT", self.endpoint)
        files = f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", files)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{handler.command} {handler.path}")
        if handler.path.startswith("/large/"):
            self._send_large(handler, handler.path.removeprefix("/large/"))
            return
        match = _PATH.match(handler.path)
        repository = self.repositories.get(match["name"]) if match else None
        if match is None or repository is None:
            _refuse(handler, 401, "RepoNotFound", "Invalid username or password.")
            return
        revision, _, name = (match["rest"] or "main").partition("/")
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            _refuse(handler, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif match["kind"] == "tree":
            _send_json(handler, [_entry(*each) for each in repository.commits[sha].items()])
        elif match["kind"] != "resolve":
            _send_json(handler, {"id": match["name"], "sha": sha, "siblings": []})
        elif repository.is_gated and handler.headers.get("Authorization") != "Bearer right":
            _refuse(handler, 403, "GatedRepo", "Access to this model is restricted.")
        else:
            self._send_resolved(handler, sha, repository.commits[sha].get(name))

    def _send_large(self, handler: BaseHTTPRequestHandler, digest: str) -> None:
        commits = (commit for each in self.repositories.values() for commit in each.commits.values())
        contents = (content for commit in commits for content in commit.values())
        content = next(each for each in contents if hashlib.sha256(each).hexdigest() == digest)
        self._send_file(handler, content, {"ETag": f'"{digest}"'}, self.cut_after_bytes)

    def _send_resolved(self, handler: BaseHTTPRequestHandler, sha: str, content: bytes | None) -> None:
        if content is None:
            _refuse(handler, 404, "EntryNotFound", "Entry not found")
            return
        commit = {"X-Repo-Commit": sha}
        if len(content) < _LARGE_BYTES:
            self._send_file(handler, content, {**commit, "ETag": f'"{_blob(content)}"'}, None)
            return
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        handler.send_response(302)
        for key, value in {
            **commit,
            **linked,
            "Location": f"{self.storage}/large/{digest}",
            "Content-Length": "0",
        }.items():
            handler.send_header(key, value)
        handler.end_headers()

    def _send_file(
        self, handler: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], cut_after: int | None
    ) -> None:
        start = int(re.sub(r"\D", "", handler.headers.get("Range", "0").partition("-")[0]) or 0)
        handler.send_response(206 if start else 200)
        sent = content[start:]
        about = {"Content-Length": str(len(sent)), "Accept-Ranges": "bytes"}
        if start:
            about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for key, value in {**headers, **about}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "GET":
            sent = sent[:cut_after]
            handler.wfile.write(sent)
            self.served_bytes += len(sent)
            handler.close_connection = cut_after is not None


@contextmanager
def simulated_hub() -> Iterator[Hub]:
    """A hub that answers on this machine while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint, hub.storage = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if len(content) < _LARGE_BYTES:
        return entry
    return {**entry, "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


def _send_json(handler: BaseHTTPRequestHandler, value: Any) -> None:
    body = json.dumps(value).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    handler.send_response(status)
    for key, value in {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": str(len(body))}.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)
