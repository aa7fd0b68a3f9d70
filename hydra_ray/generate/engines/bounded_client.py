"""HTTP client that holds no more of a reply in memory than the calls can need, whatever a server sends or packs."""

from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import httpx2
import openai

from hydra_ray.errors import ReplyError
from hydra_ray.generate.replies import MAX_REPLY_BYTES
from hydra_ray.rows import Request

_MAX_ERROR_BYTES = 64 * 2**10
"""Largest part of an error's body that is read."""
_FRAME_BYTES = 16 * 2**20
"""Largest size of a reply without its tokens: thoughts that no length limit holds for are in it."""
_TOKEN_BYTES = 4 * 2**10
"""Largest size of a token with its alternatives."""
_BODY_HEADERS = (b"content-encoding", b"content-length", b"transfer-encoding")
"""Headers of how a body was sent, which do not hold once it is read."""


def reply_bytes(requests: Iterable[Request]) -> int:
    """Return the size that no reply to one of the requests exceeds, in bytes."""
    tokens = max((each.num_samples * each.max_tokens for each in requests), default=0)
    return min(_FRAME_BYTES + tokens * _TOKEN_BYTES, MAX_REPLY_BYTES)


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Client that reads each body up to a bound while it comes, and follows no redirect: one would send the key and the
    prompts to an address that nobody configured."""

    def __init__(self, max_bytes: int):
        super().__init__(follow_redirects=False)
        self._max_bytes = max_bytes

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:  # noqa: ARG002
        """Send a request and return the whole response; of an error, at most the beginning of its body.

        Args:
            stream: ignored.

        Raises:
            ReplyError: the body is too large, or not encoded as it says.
        """
        response = await super().send(request, stream=True, **options)
        try:
            content = await self._content(response)
        except httpx2.DecodingError:
            raise ReplyError("got a body that is not encoded as its content-encoding says") from None
        finally:
            await response.aclose()
        return httpx2.Response(
            response.status_code,
            headers=[(name, value) for name, value in response.headers.raw if name.lower() not in _BODY_HEADERS],
            content=content,
            request=request,
            extensions=response.extensions,
        )

    async def _content(self, response: httpx2.Response) -> bytes:
        content = bytearray()
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                content += chunk
                if response.is_error:
                    if len(content) >= _MAX_ERROR_BYTES:
                        break
                elif len(content) > self._max_bytes:
                    raise ReplyError(f"got a reply of more than {self._max_bytes} bytes")
        return bytes(content)
