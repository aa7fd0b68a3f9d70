"""An endpoint's files and batches, as OpenAI documents them: https://developers.openai.com/api/docs/guides/batch.

Calls are repeated where that may help. Creating a batch is not idempotent, and no documented header makes it so:
`create` looks for the batch by the key in its metadata, or by its file, before each attempt.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

import openai
from openai.types import Batch

from hydra_ray.config import ApiConfig, BatchConfig
from hydra_ray.errors import EndpointError
from hydra_ray.generate.batches.lines import code_of
from hydra_ray.generate.batches.records import RAN_NOT, BatchRecord
from hydra_ray.generate.credentials import call_headers, client_settings
from hydra_ray.generate.retry_policy import pause_seconds, retry_after_seconds
from hydra_ray.temporary import temporary_file

logger = logging.getLogger(__name__)
T = TypeVar("T")

METADATA = "hydra_ray"
"""Name of the record's key in a batch's metadata."""
_PURPOSE = "batch"
_AGAIN = (408, 409, 425, 429)
"""Status codes below 500 after which a repetition may succeed."""
_PAGE = 100
"""Batches or files of a page, the most that is documented for batches."""
_CHUNK_BYTES = 1 << 20


class UnreachableError(EndpointError):
    """The endpoint did not answer a call, or asked to wait, at every attempt."""


class GoneError(EndpointError):
    """The endpoint has no such file or batch any more."""


class BusyError(EndpointError):
    """The endpoint has as many batches or tokens enqueued as it takes; it takes more when some are answered."""


class Provider:
    """Client of an endpoint's files and batches."""

    def __init__(self, api: ApiConfig, batch: BatchConfig):
        self._api, self._batch = api, batch
        for library in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            # Below this level they log addresses and, at debug level, whole requests.
            logging.getLogger(library).setLevel(logging.WARNING)
        # A redirect would send the key and the prompts to an address that nobody configured.
        without_redirects = openai.DefaultHttpxClient(follow_redirects=False)
        self._client = openai.OpenAI(**client_settings(api), http_client=without_redirects)
        self._sent: Any = {"extra_headers": call_headers(api)}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def upload(self, record: BatchRecord, content: IO[bytes]) -> str:
        """Upload the lines of a batch and return the file's id; a file that an interrupted upload left is replaced."""
        for file_id in self.files_of(record):
            self.delete(file_id)
        return self._repeat("upload a file", lambda: self._upload(record, content))

    def create(self, record: BatchRecord, file_id: str) -> Batch:
        """Return the batch of a record: the one that exists, or a new one.

        Raises:
            BusyError: the endpoint has too much enqueued.
            GoneError: the file does not exist.
        """
        return self._repeat("create a batch", lambda: self.find(record, file_id) or self._create(record, file_id))

    def find(self, record: BatchRecord, file_id: str | None) -> Batch | None:
        """Return the batch of a record that was created and not refused; None where there is none."""
        try:
            found = self._repeat("list batches", lambda: list(self._client.batches.list(limit=_PAGE, **self._sent)))
        except GoneError as error:
            raise EndpointError(
                f"{error} Without a list, no batch can be found again, and none is submitted."
            ) from error
        for each in found:
            is_ours = (each.metadata or {}).get(METADATA) == record.key
            is_its_file = file_id is not None and each.input_file_id == file_id
            if (is_ours or is_its_file) and status_of(each) != RAN_NOT:
                return each
        return None

    def retrieve(self, batch_id: str) -> Batch:
        """Return the state of a batch."""
        return self._repeat("retrieve a batch", lambda: self._client.batches.retrieve(batch_id, **self._sent))

    def cancel(self, batch_id: str) -> Batch:
        """Cancel a batch, whose results until then can be read after some minutes, and return its state."""
        return self._repeat("cancel a batch", lambda: self._client.batches.cancel(batch_id, **self._sent))

    def download(self, file_id: str) -> IO[bytes]:
        """Return the content of a file, in a temporary file without a name.

        Raises:
            GoneError: it does not exist any more.
        """
        return self._repeat("download a file", lambda: self._download(file_id))

    def delete(self, file_id: str) -> None:
        """Delete a file, unless it does not exist."""
        with suppress(GoneError):
            self._repeat("delete a file", lambda: self._client.files.delete(file_id, **self._sent))

    def files_of(self, record: BatchRecord) -> list[str]:
        """Return the ids of all uploaded files of a batch, those of interrupted uploads included."""
        name = _file_name(record)
        try:
            files = self._repeat("list files", lambda: list(self._client.files.list(purpose=_PURPOSE, **self._sent)))
        except GoneError:  # an endpoint without a list of files
            return []
        return [each.id for each in files if each.filename == name]

    def _upload(self, record: BatchRecord, content: IO[bytes]) -> str:
        content.seek(0)
        file = (_file_name(record), content, "application/jsonl")
        return self._client.files.create(file=file, purpose=_PURPOSE, **self._sent).id

    def _create(self, record: BatchRecord, file_id: str) -> Batch:
        window: Any = self._batch.completion_window
        endpoint: Any = self._batch.endpoint
        return self._client.batches.create(
            input_file_id=file_id,
            endpoint=endpoint,
            completion_window=window,
            metadata={METADATA: record.key},
            **self._sent,
        )

    def _download(self, file_id: str) -> IO[bytes]:
        content = temporary_file()
        try:
            with self._client.files.with_streaming_response.content(file_id, **self._sent) as response:
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    content.write(chunk)
        except BaseException:
            content.close()
            raise
        content.seek(0)
        return content

    def _repeat(self, what: str, call: Callable[[], T]) -> T:
        """Return the result of a call, repeated while that may help.

        Raises:
            EndpointError: it failed at every attempt, or for good.
        """
        reason = ""
        for num_failed in range(1, self._api.max_attempts + 1):
            try:
                with _readable():
                    return call()
            except openai.APIStatusError as error:
                reason, wait = (
                    _refusal(error, what, self._api),
                    retry_after_seconds(error.response.headers, time.time()),
                )
            except openai.OpenAIError as error:
                reason, wait = f"{type(error.__cause__ or error).__name__}", None
            if num_failed < self._api.max_attempts:
                time.sleep(pause_seconds(num_failed, wait, self._api.max_backoff_seconds, random.random()))
        raise UnreachableError(
            f"the endpoint {self._api.base_url} did not {what} at {self._api.max_attempts} attempts, the last one: "
            f"{reason}. Batches under way go on; run again when it answers."
        )


def status_of(batch: Batch) -> str:
    """Return the status of a batch in the words of OpenAI."""
    return str(batch.status or "unknown").lower()


def is_busy(batch: Batch) -> bool:
    """Return whether a batch was refused because too much is enqueued, and not for its content."""
    errors = [each for each in (batch.errors.data if batch.errors else None) or () if each is not None]
    return any(_is_limit(each.code, each.message) for each in errors)


def refusals(batch: Batch) -> str:
    """Return the codes and lines of the errors of a batch that was refused."""
    errors = [each for each in (batch.errors.data if batch.errors else None) or () if each is not None]
    told = [code_of({"code": each.code}) or "unknown" for each in errors[:3]]
    places = [f" in line {each.line}" if isinstance(each.line, int) else "" for each in errors[:3]]
    return ", ".join(f"{code}{place}" for code, place in zip(told, places, strict=True)) or "no reason given"


def _refusal(error: openai.APIStatusError, what: str, api: ApiConfig) -> str:
    """Return what a status means that a repetition may change.

    Raises:
        EndpointError: it would be the same.
    """
    status, code = error.status_code, code_of({"code": error.code})
    said = f"status {status}" + (f" ({code})" if code else "")
    if _is_limit(code, _message(error)):
        raise BusyError(f"the endpoint {api.base_url} has too many tokens or batches enqueued: {said}")
    if status in _AGAIN or status >= 500:
        return said
    if status in (404, 410):
        raise GoneError(
            f"the endpoint {api.base_url} did not {what}: {said}. Check that it has batches at this address."
        )
    raise EndpointError(
        f"the endpoint {api.base_url} did not {what}: {said}. Check the key, generator.api and generator.batch, and "
        "the account; then run again: batches under way are found again."
    )


def _is_limit(code: Any, message: Any) -> bool:
    """Return whether an error says that too much is enqueued.

    OpenAI and Azure have the code token_limit_exceeded, and messages with "enqueued".
    """
    return str(code) in ("token_limit_exceeded", "batch_limit_exceeded", "too_many_batches") or (
        isinstance(message, str) and "enqueued" in message.lower()
    )


def _message(error: openai.APIStatusError) -> Any:
    return error.body.get("message") if isinstance(error.body, dict) else None


@contextmanager
def _readable() -> Iterator[None]:
    """Convert what the client raises for replies that are no JSON, or of another form, into one of its own errors."""
    try:
        yield
    except (AttributeError, TypeError, KeyError, json.JSONDecodeError, UnicodeError) as error:
        raise openai.OpenAIError("the reply cannot be read") from error


def _file_name(record: BatchRecord) -> str:
    return f"hydra-ray-{record.key}.jsonl"
