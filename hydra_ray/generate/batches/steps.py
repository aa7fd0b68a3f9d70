"""Steps of one batch: upload, create, look, download, store, clear away, each from whatever state it is in.

A step begins with what is on disk and at the endpoint, and is safe to repeat, so that a process may be killed anywhere:
a batch is found by its key before it is created, and removed after its answers are stored.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import IO

from openai.types import Batch

from hydra_ray.config import ApiConfig, BatchConfig
from hydra_ray.errors import EndpointError
from hydra_ray.findings import counted
from hydra_ray.generate.batches.lines import LineForm, read_line
from hydra_ray.generate.batches.provider import (
    BusyError,
    GoneError,
    Provider,
    UnreachableError,
    is_busy,
    refusals,
    status_of,
)
from hydra_ray.generate.batches.records import ENDED, MERGED, RAN_NOT, BatchFolder, BatchRecord, again
from hydra_ray.generate.batches.results import Merged, merge_results
from hydra_ray.generate.call_faults import Fault
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.temporary import temporary_file

logger = logging.getLogger(__name__)

MAX_LOOKS = 3
"""Maximum number of looks at a batch whose result files are missing, or have fewer lines than the endpoint says."""


@dataclass(slots=True, kw_only=True)
class BatchSteps:
    """Steps of a stage's batches, and what they came to in this process. The folder's lease must be held in each."""

    stage: str
    """Name of the stage, for log lines."""
    store: CompletionStore
    folder: BatchFolder
    api: ApiConfig
    batch: BatchConfig
    provider: Provider
    form: LineForm
    faults: dict[str, Fault] = field(default_factory=dict)
    """Reasons why requests have no answer, by request id."""
    cancelled: list[str] = field(default_factory=list)
    """Ids of batches that were cancelled while this process waited."""
    _early: set[str] = field(default_factory=set)
    """Keys of batches that were cancelled before this process looked at them."""
    _seen: set[str] = field(default_factory=set)
    """Keys of batches that this process has looked at."""
    _num_short: Counter[str] = field(default_factory=Counter)
    """Number of looks at each ended batch at which results were missing, by key."""

    def advance(self, record: BatchRecord) -> BatchRecord | None:
        """Take a batch one step further, from whatever state it is in; return None once it is merged and removed."""
        if record.status == MERGED:
            return self._clear(record)
        if record.batch_id is None:
            return self._submit(record)
        found = self._state(record, record.batch_id)
        if found is None:
            raise EndpointError(
                f"stage {self.stage}: the endpoint {self.api.base_url} has no batch {record.batch_id}, neither by its "
                "id nor in its list, though it was created there. An endpoint shows the batches of a key's project "
                f"alone: set the key in {self.api.api_key_env or 'generator.api'} back to one of that project and run "
                f"again. If the batch is gone for good, remove {self.folder.location(record.key)} and run again: its "
                "requests are then asked, and paid, again."
            )
        counts = found.request_counts
        num_done = (counts.completed or 0) + (counts.failed or 0) if counts else 0
        status = status_of(found)
        self._note_cancelling(record, status)
        if (status, num_done) != (record.status, record.num_done):
            record = self.folder.write(replace(record, status=status, num_done=num_done))
        if status not in ENDED:
            return record
        if status == RAN_NOT:
            return self._refused(record, found)
        files = [each for each in (found.output_file_id, found.error_file_id) if each]
        return self._settle(record, files, num_done)

    def cancel(self, record: BatchRecord) -> BatchRecord | None:
        """Cancel a batch and take it one step further; return None once it is merged and removed."""
        if record.batch_id is None and record.status != MERGED:
            found = self.provider.find(record, record.file_id) if record.file_id else None
            if found is None:
                return self._clear(self.folder.write(replace(record, status=MERGED)))
            record = self.folder.write(replace(record, batch_id=found.id, status=status_of(found)))
        if record.batch_id is not None and record.status not in (*ENDED, MERGED, "cancelling"):
            found = self._state(record, record.batch_id)
            if found is not None and status_of(found) not in (*ENDED, "cancelling"):
                self.provider.cancel(record.batch_id)
        return self.advance(record)

    def _state(self, record: BatchRecord, batch_id: str) -> Batch | None:
        """Return the endpoint's state of a batch; None where it has it neither by its id nor in its list."""
        try:
            return self.provider.retrieve(batch_id)
        except GoneError:
            return self.provider.find(record, record.file_id)

    def _note_cancelling(self, record: BatchRecord, status: str) -> None:
        is_cancelled = status in ("cancelling", "cancelled")
        if record.key not in self._seen and is_cancelled:
            self._early.add(record.key)
        self._seen.add(record.key)
        if status == "cancelled" and record.key not in self._early:
            self.cancelled.append(record.batch_id or record.key)

    def _submit(self, record: BatchRecord) -> BatchRecord:
        """Create the batch of a record, unless it exists or too much is enqueued."""
        # The id of its file is written before it is created.
        found = self.provider.find(record, record.file_id) if record.file_id else None
        if found is None:
            if not self._has_room(record):
                return record
            record = self._upload(record)
            if record.file_id is None:  # all of its users were forgotten
                return self.folder.write(replace(record, status=MERGED))
            try:
                found = self.provider.create(record, record.file_id)
            except BusyError as error:
                logger.info("stage %s: %s; waits", self.stage, error)
                return record
            except GoneError:
                self.folder.write(replace(record, file_id=None))  # the next run uploads it again
                raise
            self._seen.add(record.key)
        logger.info("stage %s: batch %s of %s submitted", self.stage, found.id, counted(record.num_lines, "request"))
        return self.folder.write(
            replace(record, batch_id=found.id, file_id=found.input_file_id, status=status_of(found))
        )

    def _upload(self, record: BatchRecord) -> BatchRecord:
        """Upload the lines of a batch, unless its file is there and no user was forgotten since."""
        with temporary_file() as content:
            for bucket, requests in self.folder.requests(record.key):
                for request in requests:
                    content.writelines(self.form.lines(bucket, request))
            num_bytes = content.tell()
            if record.file_id is not None and num_bytes == record.num_bytes:
                return record
            file_id = self.provider.upload(record, content) if num_bytes else None
            return self.folder.write(
                replace(record, file_id=file_id, num_bytes=num_bytes, samples_per_line=self.form.samples_per_line)
            )

    def _has_room(self, record: BatchRecord) -> bool:
        """Return whether the prompts of a batch may be enqueued besides those under way; one alone always may."""
        limit = self.batch.max_enqueued_tokens
        under_way = [
            each.prompt_tokens for each in self.folder.records() if each.is_submitted and each.status != MERGED
        ]
        return limit is None or not under_way or sum(under_way) + record.prompt_tokens <= limit

    def _refused(self, record: BatchRecord, found: Batch) -> BatchRecord:
        """Prepare a batch again that came too early.

        Raises:
            EndpointError: its file is wrong, and so would the next one be.
        """
        if is_busy(found):
            logger.info(
                "stage %s: the endpoint has too much enqueued for the batch %s; waits", self.stage, record.batch_id
            )
            return self.folder.write(again(record))
        said = refusals(found)
        self._clear(self.folder.write(replace(record, status=MERGED)))
        raise EndpointError(
            f"stage {self.stage}: the endpoint {self.api.base_url} refused the batch {record.batch_id}: {said}. "
            "Nothing of it was answered or paid. Check generator.api.model, generator.batch.endpoint and the limits of "
            "generator.batch, then run again."
        )

    def _settle(self, record: BatchRecord, file_ids: Sequence[str], num_done: int) -> BatchRecord | None:
        """Store the answers of a batch that has ended, and clear it away."""
        with ExitStack() as stack:
            files = [stack.enter_context(file) for file in map(self._file, file_ids) if file is not None]
            if self._comes_later(record, sum(map(_num_lines, files)), num_done):
                return record
            form = replace(self.form, samples_per_line=record.samples_per_line)
            merged = merge_results(record, self.folder, self.store, files, form)
        self._tell_merged(record, merged)
        self.faults |= merged.faults
        left = self._clear(self.folder.write(replace(record, status=MERGED)), file_ids)
        if merged.refusal is not None:
            raise merged.refusal
        return left

    def _comes_later(self, record: BatchRecord, num_lines: int, num_done: int) -> bool:
        """Return whether to look again for results that the endpoint has told of and that are not in its files."""
        if num_lines >= num_done:
            return False
        self._num_short[record.key] += 1
        if self._num_short[record.key] < MAX_LOOKS:
            return True
        logger.warning(
            "batch %s: %d results of %d that the endpoint has told of; the others are asked, and paid, again",
            record.batch_id,
            num_lines,
            num_done,
        )
        return False

    def _file(self, file_id: str) -> IO[bytes] | None:
        try:
            return self.provider.download(file_id)
        except GoneError:
            logger.warning("the result file %s is not at the endpoint", file_id)
            return None

    def _clear(self, record: BatchRecord, result_ids: Sequence[str] = ()) -> None:
        """Remove a merged batch: its requests, its files at the endpoint, and last its record."""
        self.folder.remove_requests(record.key)
        if not self.batch.keeps_files:
            try:
                for file_id in self._files_left(record, result_ids):
                    self.provider.delete(file_id)
            except UnreachableError:
                raise
            except EndpointError as error:
                logger.warning(
                    "files of the batch %s stay at the endpoint until they expire, delete them there: %s",
                    record.batch_id or record.key,
                    error,
                )
        self.folder.remove(record.key)

    def _files_left(self, record: BatchRecord, result_ids: Sequence[str]) -> list[str]:
        """Return the ids of all files of a batch that the endpoint may still have."""
        found = self._state(record, record.batch_id) if record.batch_id is not None and not result_ids else None
        results = [found.output_file_id, found.error_file_id] if found is not None else list(result_ids)
        uploaded = self.provider.files_of(record)
        return list(dict.fromkeys(each for each in (*results, *uploaded, record.file_id) if each))

    def _tell_merged(self, record: BatchRecord, merged: Merged) -> None:
        logger.info(
            "%s: batch %s %s: %d answered, %d refused, %d without a result",
            self.stage,
            record.batch_id,
            record.status,
            merged.num_answered,
            merged.num_refused,
            len(merged.faults),
        )


def _num_lines(file: IO[bytes]) -> int:
    """Return the number of lines of a result file, without a last one that is cut off."""
    file.seek(0)
    number, last = 0, b""
    for line in file:
        if line.strip():
            number, last = number + 1, line
    return number - 1 if number and read_line(last) is None else number
