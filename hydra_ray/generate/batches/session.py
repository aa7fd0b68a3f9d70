"""Answering of a stage's requests in batches: prepare, submit, wait, store, and ask for the rest again.

A batch is prepared on disk before it is sent; what then becomes of it are the steps of `BatchSteps`. Steps on one store
are taken under its lease, one process at a time; several processes that need the same batch wait for it together, and
whichever comes first stores its answers.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from hydra_ray.config import ApiConfig, GeneratorConfig
from hydra_ray.errors import ConfigError, EndpointError
from hydra_ray.generate.batches.lines import LineForm, line_form
from hydra_ray.generate.batches.packing import Load, Queued, load_of, packages
from hydra_ray.generate.batches.provider import Provider, UnreachableError
from hydra_ray.generate.batches.records import (
    ENDED,
    MERGED,
    BatchFolder,
    BatchRecord,
    batches_of,
    listed,
    new_record,
    queue_of,
)
from hydra_ray.generate.batches.steps import MAX_LOOKS, BatchSteps
from hydra_ray.generate.call_faults import Fault
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.runs.lease import lease
from hydra_ray.runs.root import root_key

logger = logging.getLogger(__name__)

_HOUR_SECONDS = 3600

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
    generator: GeneratorConfig
    api: ApiConfig
    form: LineForm
    folder: BatchFolder
    steps: BatchSteps
    may_spend: Spend
    on_progress: OnProgress
    _wanted: set[str] = field(default_factory=set)
    """Ids of the requests that the stage waits for."""

    @property
    def faults(self) -> dict[str, Fault]:
        """Reasons why requests have no answer, by request id."""
        return self.steps.faults

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
        for _ in range(MAX_LOOKS):
            record = self.folder.read(key)
            now = None if record is None else self.steps.cancel(record)
            if now is None or now.status not in ENDED:
                break
        return now

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
        if self.steps.cancelled:
            raise EndpointError(
                f"stage {self.stage}: {', '.join(self.steps.cancelled)} cancelled. What was answered before is stored; "
                "run again to ask for the rest."
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
                    now = self.steps.advance(record)
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

    def _tell_of_batches_left(self) -> None:
        if left := self.folder.under_way(self.asker):
            logger.warning(
                "%s go on at the endpoint and are paid for. Run again to collect the answers, or cancel them with "
                "`hydra-ray stop RUN --cancel`.",
                listed(left),
            )


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
    folder, form = batches_of(store), line_form(generator, api, root_key(store.root))
    steps = BatchSteps(
        stage=stage, store=store, folder=folder, api=api, batch=generator.batch, provider=provider, form=form
    )
    session = BatchSession(
        stage=stage,
        asker=asker,
        generator=generator,
        api=api,
        form=form,
        folder=folder,
        steps=steps,
        may_spend=may_spend,
        on_progress=on_progress,
    )
    try:
        yield session
    finally:
        provider.close()
