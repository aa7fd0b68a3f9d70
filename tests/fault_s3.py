"""moto's S3 over HTTP, with the faults of a real store: refusals for the moment, bodies that break off, no room."""

import threading
from collections import deque
from collections.abc import Iterable
from enum import Enum
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any
from xml.sax.saxutils import escape

import boto3

BUCKET = "hydra-ray"
KEY, SECRET = "key-of-these-tests", "secret-of-these-tests"


class Fault(Enum):
    """What happens to one request."""

    NONE = "none"
    SLOW_DOWN = "slow_down"
    """503; the request is not carried out."""
    CUT_OFF = "cut_off"
    """It is carried out, and half of the answer's body comes."""
    NO_ROOM = "no_room"
    """507; the store is full."""
    STALL = "stall"
    """Nothing comes until faults are over, and then 503."""
    EXPIRED = "expired"
    """400; the credentials were temporary, and their time is over."""


class FaultyS3:
    """A server with one bucket, in a process of its own."""

    def __init__(self) -> None:
        # What moto is made of must not be in a process that tests vLLM: flask's globals raise when they are looked at.
        self._manager = _Manager(ctx=get_context("spawn"))

    @property
    def endpoint(self) -> str:
        return self._server.endpoint()

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be told to use it."""
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
        return {**keys, "AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_REGION": "us-east-1"}

    @property
    def requests(self) -> list[str]:
        """Method and path of every request since `forget_requests`."""
        return self._server.seen()

    @property
    def served_bytes(self) -> int:
        """Bytes of all objects that were read since `forget_requests`."""
        return self._server.served()

    @property
    def num_faults(self) -> int:
        """How many faults have not happened yet."""
        return self._server.num_faults()

    def start(self) -> None:
        self._manager.start()
        self._server = self._manager.server()
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        client: Any = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=BUCKET)
        client.close()

    def stop(self) -> None:
        self._manager.shutdown()

    def disturb(self, *faults: Fault) -> None:
        """Let these happen to the requests that follow, one each, in order."""
        self._server.disturb(faults)

    def calm(self) -> None:
        """Let no more faults happen."""
        self._server.calm()

    def forget_requests(self) -> None:
        self._server.forget()


class _Server:
    """What is in the other process."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        silent = type("Silent", (MotoRequestHandler,), {"log": lambda *_: None})
        self._faults: deque[Fault] = deque()
        self._requests: list[str] = []
        self._served_bytes = 0
        self._is_calm = threading.Event()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=silent)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def seen(self) -> list[str]:
        return list(self._requests)

    def served(self) -> int:
        return self._served_bytes

    def num_faults(self) -> int:
        return len(self._faults)

    def disturb(self, faults: Iterable[Fault]) -> None:
        self._is_calm.clear()
        self._faults.extend(faults)

    def calm(self) -> None:
        self._faults.clear()
        self._is_calm.set()

    def forget(self) -> None:
        self._requests.clear()
        self._served_bytes = 0

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        fault = self._faults.popleft() if self._faults else Fault.NONE
        if fault == Fault.STALL:
            self._is_calm.wait()
        if fault in (Fault.SLOW_DOWN, Fault.STALL):
            return _refusal(environ, start_response, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
        if fault == Fault.EXPIRED:
            return _refusal(environ, start_response, "400 Bad Request", "ExpiredToken", "The token has expired.")
        if fault == Fault.NO_ROOM:
            return _refusal(environ, start_response, "507 No Room", "XMinioStorageFull", "The store is full.")
        if fault == Fault.NONE:
            return self._app(environ, self._counting(environ, start_response))
        body = b"".join(self._app(environ, start_response))
        return [body[: len(body) // 2]]

    def _counting(self, environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            is_object = environ["REQUEST_METHOD"] == "GET" and "list-type" not in environ["QUERY_STRING"]
            if is_object and status.startswith("20"):
                self._served_bytes += int(dict(headers).get("Content-Length", 0))
            return start_response(status, headers, *rest)

        return start


class _Manager(BaseManager):
    server: Any


_Manager.register("server", _Server)


def _refusal(environ: dict[str, Any], start_response: Any, status: str, code: str, message: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
