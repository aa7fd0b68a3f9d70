"""moto's S3 over HTTP, with the faults of a real store: refusals for the moment, bodies that break off, no room."""

import threading
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

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


class FaultyS3:
    """A server with one bucket. What is put into `faults` happens to the requests that follow, one each, in order."""

    def __init__(self) -> None:
        self.faults: deque[Fault] = deque()
        self.requests: list[str] = []
        """Method and path of every request."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Silent)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be told to use it."""
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
        return {**keys, "AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_REGION": "us-east-1"}

    def start(self) -> None:
        self._thread.start()
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
        client: Any = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=BUCKET)
        client.close()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if fault == Fault.SLOW_DOWN:
            return _refusal(environ, start_response, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
        if fault == Fault.NO_ROOM:
            return _refusal(environ, start_response, "507 No Room", "XMinioStorageFull", "The store is full.")
        if fault == Fault.NONE:
            return self._app(environ, start_response)
        body = b"".join(self._app(environ, start_response))
        return [body[: len(body) // 2]]


class _Silent(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


def _refusal(environ: dict[str, Any], start_response: Any, status: str, code: str, message: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
