import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from reply_bodies import body_of

from hydra_ray.errors import ReplyError
from hydra_ray.generate.engines.bounded_client import BoundedClient, reply_bytes
from hydra_ray.generate.replies import MAX_REPLY_BYTES
from hydra_ray.rows import Message, Request

LIMIT = 10_000


@contextmanager
def serving(status: int, chunk: bytes, num_chunks: int, **headers: str) -> Iterator[tuple[str, list[int]]]:
    """A server that sends a body of many chunks, and tells how many it got rid of."""
    sent: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            try:
                for place in range(num_chunks):
                    self.wfile.write(chunk)
                    sent.append(place)
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def got(url: str) -> httpx2.Response:
    async def get() -> httpx2.Response:
        async with BoundedClient(LIMIT) as client:
            return await client.get(url)

    return asyncio.run(get())


def test_a_body_without_end_is_given_up_while_it_comes():
    with serving(200, b" " * 100_000, 10_000) as (url, sent), pytest.raises(ReplyError, match="more than 10000 bytes"):
        got(url)
    assert len(sent) < 10_000


def test_a_packed_body_is_bounded_by_what_it_unpacks_to():
    packed = gzip.compress(b" " * 50_000_000)
    with serving(200, packed, 1, content_encoding="gzip") as (url, _), pytest.raises(ReplyError, match="more than"):
        got(url)


def test_of_an_error_the_beginning_of_the_body_is_read():
    with serving(500, b"x" * 100_000, 10_000, retry_after="3") as (url, sent):
        response = got(url)
    assert (response.status_code, response.headers["retry-after"]) == (500, "3")
    assert 0 < len(response.content) < 1_000_000
    assert len(sent) < 10_000


def test_a_packed_body_comes_unpacked_and_keeps_its_other_headers():
    body = json.dumps(body_of({"content": "war"})).encode()
    with serving(200, gzip.compress(body), 1, content_encoding="gzip", X_Request_Id="caf\xe9") as (url, _):
        response = got(url)
    assert (response.content, response.headers["x-request-id"]) == (body, "caf\xe9")


def test_a_body_that_is_not_packed_as_it_says_is_a_reply_that_cannot_be_used():
    with serving(200, b"{}", 1, content_encoding="gzip") as (url, _), pytest.raises(ReplyError, match="encoded"):
        got(url)


def test_a_redirect_is_not_followed():
    with serving(302, b"", 1, location="http://127.0.0.1:9/") as (url, _):
        assert got(url).status_code == 302


def test_the_bound_grows_with_what_is_asked_for_up_to_the_largest_reply():
    request = Request(
        request_id="r",
        user_id="ann",
        messages=(Message(role="user", content="x"),),
        num_samples=1,
        temperature=0.0,
        max_tokens=16,
        choices=(),
        num_top_tokens=0,
        seed=0,
    )
    small = reply_bytes([request])
    large = reply_bytes([request, replace(request, num_samples=8, max_tokens=512)])
    assert len(json.dumps(body_of({"content": "war"}))) < small < large < MAX_REPLY_BYTES
    assert reply_bytes([replace(request, max_tokens=10**9)]) == MAX_REPLY_BYTES
