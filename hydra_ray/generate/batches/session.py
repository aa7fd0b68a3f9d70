"""Answering of a stage's requests in batches: prepare, submit, wait, store, and ask for the rest again.

Every step begins with what is on disk and at the endpoint, and is safe to repeat, so that a process may be killed
anywhere: a batch is prepared on disk before it is sent, found by its key before it is created, and removed after its
answers are stored. Steps on one store are taken under its lease, one process at a time; several processes that need the
same batch wait for it together, and whichever comes first stores its answers.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO

from openai.types import Batch

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.errors import ConfigError, EndpointError
from hydra_ray.findings import counted
from hydra_ray.generate.batches.lines import LineForm, line_form, read_line
from hydra_ray.generate.batches.packing import Load, Queued, load_of, packages
from hydra_ray.generate.batches.provider import (
    BusyError,
    GoneError,
    Provider,
    UnreachableError,
    is_busy,
    refusals,
    status_of,
)
from hydra_ray.generate.batches.records import (
    ENDED,
    MERGED,
    RAN_NOT,
    BatchFolder,
    BatchRecord,
    again,
    batches_of,
    new_record,
    queue_of,
)
from hydra_ray.generate.batches.results import Merged, merge_results
from hydra_ray.generate.call_faults import Fault
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.runs.lease import lease
from hydra_ray.runs.root import root_key
from hydra_ray.temporary import temporary_file

logger = logging.getLogger(__name__)

_HOUR_SECONDS = 3600
_MAX_DOWNLOADS = 3
"""Maximum number of looks at a batch whose result files are missing, or have fewer lines than the endpoint says."""

Spend = Callable[[Mapping[str, float]], None]
"""Raises where so many tokens, and so much money, may not be spent: counters asked_tokens and cost."""
FillQueue = Callable[[], Mapping[str, float]]
OnProgress = Callable[[int, int], None]
"""Told the number of lines that are done, and of all lines under way."""


@dataclass(slots=True, kw_only=True)
class BatchSession:
    """Batches of one stage, in one process."""

    stage: str
    """Name of the stage, for log lines."""
    asker: str
    store: CompletionStore
    generator: GeneratorConfig
    api: ApiConfig
    provider: Provider
    form: LineForm
    folder: BatchFolder
    may_spend: Spend
    on_progress: OnProgress
    faults: dict[str, Fault] = field(default_factory=dict)
    """Reasons why requests have no answer, by request id."""
    _wanted: set[str] = field(default_factory=set)
    """Ids of the requests that the stage waits for."""
    _early: set[str] = field(default_factory=set)
    """Keys of batches that were cancelled before this process looked at them."""
    _seen: set[str] = field(default_factory=set)
    """Keys of batches that this process has looked at."""
    _cancelled: list[str] = field(default_factory=list)
    """Ids of batches that were cancelled while this process waited."""
    _num_short: Counter[str] = field(default_factory=Counter)
    """Number of looks at each ended batch at which results were missing, by key."""

    def answer(self, fill_queue: FillQueue) -> None:
        """Answer all requests that the queue is filled with, in as many rounds as are allowed; `faults` has the rest.

        Args:
            fill_queue: writes the requests without a stored answer to the queue of the stage, by bucket; returns
                what was paid for those that have one, as counters.

        Raises:
            BudgetError: nothing was submitted, because it may cost too much.
            EndpointError: the endpoint refuses all requests, or the batches were cancelled or take too long.
        """
        try:
            for _ in range(self.generator.batch.max_rounds):
                if not self._prepare(fill_queue):
                    return
                self._wait()
        except KeyboardInterrupt:
            self._tell_of_batches_left()
            raise
        finally:
            self.folder.remove_requests(queue_of(self.asker))

    def _prepare(self, fill_queue: FillQueue) -> bool:
        """Prepare batches of the queued requests that are in none yet; return whether there is anything to wait for."""
        queue = queue_of(self.asker)
        self.folder.remove_requests(queue)
        paid = fill_queue()
        self._wanted = self.folder.request_ids(queue)
        with self._lease("prepares batches"):
            self.folder.remove_unrecorded()
            own, taken = self._own_records()
            if not (self._wanted or own):
                return False
            self._require_budget(own, taken, paid)
            for package in packages(self._queued(taken), self.form):
                self.folder.prepare(new_record(self.asker, self.api, package.load), package.requests)
        self.folder.remove_requests(queue)
        return True

    def _queued(self, taken: Set[str]) -> Queued:
        """Yield the queued requests that are in no batch yet, by bucket."""
        for bucket, requests in self.folder.requests(queue_of(self.asker)):
            yield bucket, [each for each in requests if each.request_id not in taken]

    def _require_budget(self, own: Sequence[BatchRecord], taken: Set[str], paid: Mapping[str, float]) -> None:
        """Check that all batches of the stage that are not answered may be paid, before any more are submitted.

        Raises:
            BudgetError: they may not.
        """
        left = [each for each in own if each.status != MERGED]
        load = Load(
            prompt_tokens=sum(each.prompt_tokens for each in left), most_tokens=sum(each.most_tokens for each in left)
        )
        new = sum((load_of(each, self.form) for _, own in self._queued(taken) for each in own), Load())
        if new.num_lines or any(not each.is_submitted for each in left):
            load += new
            full = load.prompt_tokens * self.api.prompt_price + load.most_tokens * self.api.generated_price
            most = {
                "asked_tokens": load.prompt_tokens + load.most_tokens,
                "cost": full * self.generator.batch.price_factor / 1_000_000,
            }
            self.may_spend({name: most[name] + paid.get(name, 0.0) for name in most})

    def cancel(self) -> list[BatchRecord]:
        """Cancel all batches of the stage, store what they have answered, and return those that have not ended yet.

        Raises:
            EndpointError: the endpoint cannot be reached or refuses to.
        """
        left = list[BatchRecord]()
        for key in [each.key for each in self.folder.records() if each.asker == self.asker]:
            with self._lease("cancels its batches"):
                if (now := self._cancelled_now(key)) is not None:
                    left.append(now)
        return left

    def _cancelled_now(self, key: str) -> BatchRecord | None:
        """Cancel a batch and store its results; return None once it is cleared away."""
        now = None
        for _ in range(_MAX_DOWNLOADS):
            record = self.folder.read(key)
            now = None if record is None else self._cancel(record)
            if now is None or now.status not in ENDED:
                break
        return now

    def _cancel(self, record: BatchRecord) -> BatchRecord | None:
        if record.batch_id is None and record.status != MERGED:
            found = self.provider.find(record, record.file_id) if record.file_id else None
            if found is None:
                return self._clear(self.folder.write(replace(record, status=MERGED)))
            record = self.folder.write(replace(record, batch_id=found.id, status=status_of(found)))
        if record.batch_id is not None and record.status not in (*ENDED, MERGED, "cancelling"):
            found = self._state(record, record.batch_id)
            if found is not None and status_of(found) not in (*ENDED, "cancelling"):
                self.provider.cancel(record.batch_id)
        return self._advance(record)

    def _own_records(self) -> tuple[list[BatchRecord], set[str]]:
        """Return the batches that hold requests of this stage, and the ids of these requests."""
        own, taken = list[BatchRecord](), set[str]()
        for record in self.folder.records():
            ids = self.folder.request_ids(record.key) & self._wanted
            if ids or (record.asker == self.asker):
                self._require_address(record)
                own.append(record)
            if record.status != MERGED:
                taken |= ids
        return own, taken

    def _require_address(self, record: BatchRecord) -> None:
        if record.base_url.rstrip("/") != self.api.base_url.rstrip("/"):
            raise ConfigError(
                f"the batch {record.batch_id or record.key} of these requests is under way at {record.base_url}, and "
                f"generator.api.base_url is {self.api.base_url}: set it back and run again, or cancel the batch with "
                "`hydra-ray stop RUN --cancel`."
            )

    def _wait(self) -> None:
        """Submit and follow the stage's batches until all of them are merged.

        Raises:
            EndpointError: the endpoint refuses them, or they were cancelled or take too long.
        """
        batch = self.generator.batch
        end = time.monotonic() + batch.deadline_hours * _HOUR_SECONDS
        pause, before = batch.poll_seconds, (-1, -1)
        keys = [record.key for record in self._own_records()[0]]
        while records := self._advance_all(keys):
            # A batch that is refused and submitted again and again is no progress.
            if (state := (len(records), sum(each.num_done for each in records))) != before:
                before, pause = state, batch.poll_seconds
            if time.monotonic() + pause > end:
                raise EndpointError(
                    f"stage {self.stage}: {listed(records)}, not ended after generator.batch.deadline_hours="
                    f"{batch.deadline_hours:g}. They go on at the endpoint: run again to wait for them, or cancel them "
                    "with `hydra-ray stop RUN --cancel`."
                )
            time.sleep(pause)
            pause = min(2 * pause, batch.max_poll_seconds)
        if self._cancelled:
            raise EndpointError(
                f"stage {self.stage}: {', '.join(self._cancelled)} cancelled. What was answered before is stored; run "
                "again to ask for the rest."
            )

    def _advance_all(self, keys: Sequence[str]) -> list[BatchRecord]:
        """Take each batch one step further; return those that are left.

        Raises:
            UnreachableError: the endpoint does not answer, and no batch of the stage is submitted yet.
        """
        left, unreachable = list[BatchRecord](), None
        for key in keys:
            with self._lease("follows its batches"):
                record = self.folder.read(key)
                if record is None:
                    continue
                try:
                    now = self._advance(record)
                except UnreachableError as error:
                    logger.warning("stage %s: %s", self.stage, error)
                    now, unreachable = record, error
            if now is not None:
                left.append(now)
                if now != record:
                    self._tell_progress(now, keys)
        if unreachable is not None and not any(each.is_submitted for each in left):
            raise unreachable
        self.on_progress(sum(each.num_done for each in left), sum(each.num_lines for each in left))
        return left

    def _advance(self, record: BatchRecord) -> BatchRecord | None:
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
            self._cancelled.append(record.batch_id or record.key)

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
        limit = self.generator.batch.max_enqueued_tokens
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
        if self._num_short[record.key] < _MAX_DOWNLOADS:
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
        if not self.generator.batch.keeps_files:
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

    def _lease(self, what: str) -> AbstractContextManager[None]:
        return lease(self.folder.lease, f"stage {self.stage} {what}")

    def _tell_progress(self, record: BatchRecord, keys: Sequence[str]) -> None:
        place, number = keys.index(record.key) + 1, len(keys)
        logger.info(
            "%s: batch %d of %d: %d of %d done (%s)",
            self.stage,
            place,
            number,
            record.num_done,
            record.num_lines,
            record.status,
        )

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

    def _tell_of_batches_left(self) -> None:
        left = [each for each in self.folder.records() if each.asker == self.asker and each.status != MERGED]
        if left:
            logger.warning(
                "%s go on at the endpoint and are paid for. Run again to collect the answers, or cancel them with "
                "`hydra-ray stop RUN --cancel`.",
                listed(left),
            )


def listed(records: Iterable[BatchRecord]) -> str:
    """Return the ids of batches; those that are not submitted yet have none."""
    ids = [each.batch_id or f"{each.key} (not submitted)" for each in records]
    return f"the batch{'es' if len(ids) > 1 else ''} {', '.join(ids)}"


def _num_lines(file: IO[bytes]) -> int:
    """Return the number of lines of a result file, without a last one that is cut off."""
    file.seek(0)
    number, last = 0, b""
    for line in file:
        if line.strip():
            number, last = number + 1, line
    return number - 1 if number and read_line(last) is None else number


@contextmanager
def open_session(
    stage: str,
    asker: str,
    store: CompletionStore,
    generator: GeneratorConfig,
    may_spend: Spend,
    on_progress: OnProgress = lambda _done, _all: None,
) -> Iterator[BatchSession]:
    """Yield the session of a stage.

    Raises:
        ConfigError: the endpoint's key is missing.
    """
    api = generator.api
    assert api is not None, "the engine openai_batch has the section generator.api"
    provider = Provider(api, generator.batch)
    session = BatchSession(
        stage=stage,
        asker=asker,
        store=store,
        generator=generator,
        api=api,
        provider=provider,
        form=line_form(generator, api, root_key(store.root)),
        folder=batches_of(store),
        may_spend=may_spend,
        on_progress=on_progress,
    )
    try:
        yield session
    finally:
        provider.close()
