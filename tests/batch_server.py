"""A simulated Batch API, after its documentation, with all that can go wrong with one; it counts what is paid.

The rules are those of https://developers.openai.com/api/docs/guides/batch (JSONL with unique custom_ids, one model a
file, limits, statuses, expiry, results in any order in an output and an error file) and
https://developers.openai.com/api/reference/resources/batches (fields, metadata of at most 16 pairs of 64 and 512
characters, lists in pages by `after`), and for refused batches the codes that OpenAI and Azure give
(https://learn.microsoft.com/azure/ai-services/openai/how-to/batch).
"""

import json
import os
import random
import re
import signal
import threading
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from fault_server import completion_of

EXPIRED = {"code": "batch_expired", "message": "This request could not be executed before the completion window."}
LineResult = dict[str, Any]


@dataclass(kw_only=True)
class Rules:
    """What the server does with the batches that are created from now on."""

    status: str = "completed"
    """Of a batch in the end."""
    answered: Callable[[int], bool] = lambda _: True
    """Whether the line of a number is executed before the batch ends."""
    replace: Callable[[int, LineResult], list[LineResult | str]] = lambda _, line: [line]
    """The lines, or raw texts, in the place of a result."""
    num_polls: int = 1
    """Looks at a batch until it has ended."""
    max_enqueued: int | None = None
    """Characters of files enqueued at a time."""
    error: dict[str, Any] | None = None
    """With which the file of the next batch is found wrong."""


@dataclass(kw_only=True)
class _State:
    fields: dict[str, Any]
    lines: list[dict[str, Any]]
    rules: Rules
    num_polls: int = 0


@dataclass(kw_only=True)
class Fault:
    """What happens to a call instead, or around it."""

    status: int | None = None
    """Answered with this status; the call has no effect."""
    kills_before: bool = False
    """The caller is killed when the call arrives."""
    kills_after: bool = False
    """The caller is killed when the call has had its effect, before it is answered."""
    hangs_up: bool = False
    """The call has its effect and the connection is closed without an answer."""
    cuts: bool = False
    """The body is cut off, without any sign of it."""


class BatchServer:
    """Listens while it is entered. `faults` has, by name of a call, what happens to the next ones of it."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.faults: dict[str, deque[Fault]] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, _State] = {}
        self.paid: Counter[str] = Counter()
        """How often each call was executed, and paid for."""
        self.calls: list[str] = []
        self.uploads: list[str] = []
        self.is_oldest_first = False
        """Order of the list of batches."""
        self.caller: int | None = None
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._server = _Listener(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, call: str, *faults: Fault) -> None:
        self.faults.setdefault(call, deque()).extend(faults)

    def take_fault(self, call: str) -> Fault:
        self.calls.append(call)
        waiting = self.faults.get(call)
        return waiting.popleft() if waiting else Fault()

    def kill(self) -> None:
        assert self.caller is not None
        os.kill(self.caller, signal.SIGKILL)
        while _is_running(self.caller):
            time.sleep(0.001)

    # The calls, each under the lock.
    def call(self, name: str, argument: Any) -> tuple[int, Any]:
        with self._lock:
            return getattr(self, f"_{name}")(argument)

    def _upload(self, form: dict[str, Any]) -> tuple[int, Any]:
        if form.get("purpose") != "batch" or not form["filename"].endswith(".jsonl"):
            return 400, _error("invalid_purpose")
        file_id = f"file-{next(self._numbers)}"
        self.files[file_id] = (form["filename"], form["file"])
        self.uploads.append(form["filename"])
        return 200, self._file(file_id)

    def _file(self, file_id: str) -> dict[str, Any]:
        name, content = self.files[file_id]
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": name,
            "purpose": "batch" if name.endswith(".jsonl") and not name.startswith("result") else "batch_output",
            "status": "processed",
        }

    def _list_files(self, query: dict[str, str]) -> tuple[int, Any]:
        found = [self._file(each) for each in self.files]
        return 200, _page([each for each in found if each["purpose"] == query.get("purpose", each["purpose"])], query)

    def _delete_file(self, file_id: str) -> tuple[int, Any]:
        if self.files.pop(file_id, None) is None:
            return 404, _error("not_found")
        return 200, {"id": file_id, "object": "file", "deleted": True}

    def _content(self, file_id: str) -> tuple[int, Any]:
        if file_id not in self.files:
            return 404, _error("not_found")
        return 200, self.files[file_id][1]

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        metadata = body.get("metadata") or {}
        wrong = len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items())
        if wrong or body["completion_window"] != "24h" or body["endpoint"] != "/v1/chat/completions":
            return 400, _error("invalid_request_error")
        if body["input_file_id"] not in self.files:
            return 404, _error("not_found")
        batch_id, number = f"batch_{next(self._numbers)}", len(self.batches)
        lines, errors = _validated(self.files[body["input_file_id"]][1])
        enqueued = sum(self._size(each) for each in self.batches.values() if each.fields["status"] == "in_progress")
        rules = self.rules
        if rules.error is not None:
            errors, rules.error = [rules.error], None
        if rules.max_enqueued is not None and enqueued and enqueued + _size(lines) > rules.max_enqueued:
            errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m", "line": None}]
        fields = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": "24h",
            "created_at": number,
            "metadata": metadata or None,
            "status": "failed" if errors else "in_progress",
            "errors": {"object": "list", "data": errors} if errors else None,
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        self.batches[batch_id] = _State(fields=fields, lines=lines, rules=Rules(**vars(rules)))
        return 200, {**fields, "status": "validating", "errors": None}

    def _size(self, state: _State) -> int:
        return _size(state.lines)

    def _list_batches(self, query: dict[str, str]) -> tuple[int, Any]:
        if int(query.get("limit", 20)) > 100:
            return 400, _error("invalid_request_error")
        states = self.batches.values() if self.is_oldest_first else reversed(self.batches.values())
        return 200, _page([each.fields for each in states], query)

    def _retrieve(self, batch_id: str) -> tuple[int, Any]:
        state = self.batches.get(batch_id)
        if state is None:
            return 404, _error("not_found")
        state.num_polls += 1
        if state.fields["status"] == "in_progress" and state.num_polls >= state.rules.num_polls:
            self._end(state, state.rules.status)
        elif state.fields["status"] == "cancelling":
            self._end(state, "cancelled")
        return 200, state.fields

    def _cancel(self, batch_id: str) -> tuple[int, Any]:
        fields = self.batches[batch_id].fields
        if fields["status"] == "in_progress":
            fields["status"] = "cancelling"
        return 200, fields

    def _end(self, state: _State, status: str) -> None:
        """Execute the lines and write the files."""
        output, errors = list[LineResult | str](), list[LineResult | str]()
        counts = state.fields["request_counts"]
        for number, line in enumerate(state.lines):
            if not state.rules.answered(number):
                if status == "expired":
                    errors.append(_result(line, None, EXPIRED))
                continue
            self.paid[json.dumps(line["body"], sort_keys=True)] += 1
            result = _result(line, {"status_code": 200, "request_id": "r", "body": completion_of(line["body"])}, None)
            for each in state.rules.replace(number, result):
                is_error = isinstance(each, dict) and (each.get("response") or {}).get("status_code") != 200
                (errors if is_error else output).append(each)
                counts["failed" if is_error else "completed"] += isinstance(each, dict)
        random.Random(0).shuffle(output)
        state.fields["status"] = status
        for name, results in (("output_file_id", output), ("error_file_id", errors)):
            if results:
                file_id = f"file-{next(self._numbers)}"
                texts = [each if isinstance(each, str) else json.dumps(each) for each in results]
                self.files[file_id] = ("result.jsonl", ("\n".join(texts) + "\n").encode())
                state.fields[name] = file_id


def _result(line: dict[str, Any], response: Any, error: Any) -> LineResult:
    return {"id": "batch_req", "custom_id": line["custom_id"], "response": response, "error": error}


def _size(lines: list[dict[str, Any]]) -> int:
    return len(json.dumps(lines))


def _validated(content: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of a file, or what is wrong with it."""
    lines = [json.loads(each) for each in content.splitlines()]
    if len({each["custom_id"] for each in lines}) < len(lines):
        return [], [{"code": "duplicate_custom_id", "message": "", "line": 1}]
    if len({each["body"]["model"] for each in lines}) != 1:
        return [], [{"code": "mismatched_model", "message": "", "line": 1}]
    if not 0 < len(lines) <= 50_000 or len(content) > 200_000_000:
        return [], [{"code": "invalid_file", "message": "", "line": None}]
    if any(each["url"] != "/v1/chat/completions" or each["method"] != "POST" for each in lines):
        return [], [{"code": "invalid_url", "message": "", "line": 1}]
    return lines, []


def _page(found: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """A page of at most five, so that there are several."""
    ids = [each["id"] for each in found]
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    page = found[start : start + min(int(query.get("limit", 5)), 5)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    return {"object": "list", "data": page, "has_more": start + len(page) < len(found), **ends}


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "type": "invalid_request_error", "message": "a text of a user"}}


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


_ROUTES: list[tuple[str, str, str]] = [
    ("POST", r"/v1/files", "upload"),
    ("GET", r"/v1/files", "list_files"),
    ("GET", r"/v1/files/([^/]+)/content", "content"),
    ("DELETE", r"/v1/files/([^/]+)", "delete_file"),
    ("POST", r"/v1/batches", "create"),
    ("GET", r"/v1/batches", "list_batches"),
    ("GET", r"/v1/batches/([^/]+)", "retrieve"),
    ("POST", r"/v1/batches/([^/]+)/cancel", "cancel"),
]


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _owner(self) -> BatchServer:
        assert isinstance(self.server, _Listener)
        return self.server.owner

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _handle(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) if self.command == "POST" else b""
        if self.headers.get("transfer-encoding"):
            body = self._chunks()
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if method == self.command and match:
                self._respond(name, self._argument(name, match, url.query, body))
                return
        self._send(404, b"{}")

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _argument(self, name: str, match: re.Match[str], query: str, body: bytes) -> Any:
        if name == "upload":
            return _form(self.headers["content-type"], body)
        if match.groups():
            return match[1]
        return json.loads(body) if self.command == "POST" else dict(urllib.parse.parse_qsl(query))

    def _respond(self, name: str, argument: Any) -> None:
        fault = self._owner.take_fault(name)
        if fault.kills_before:
            self._owner.kill()
            return
        if fault.status is not None:
            self._send(fault.status, json.dumps(_error("server_error")).encode())
            return
        status, found = self._owner.call(name, argument)
        if fault.kills_after:
            self._owner.kill()
            return
        if fault.hangs_up:
            self.close_connection = True
            return
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self._send(status, content[: len(content) // 2] if fault.cuts else content)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _handle


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: BatchServer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner


def _form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a multipart form."""
    boundary = content_type.partition("boundary=")[2].encode()
    form: dict[str, Any] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
        names = dict(re.findall(rb'(name|filename)="([^"]*)"', head))
        key = names[b"name"].decode()
        form[key] = content if b"filename" in names else content.decode()
        if b"filename" in names:
            form["filename"], form[key] = names[b"filename"].decode(), content + b"\n"
    return form
