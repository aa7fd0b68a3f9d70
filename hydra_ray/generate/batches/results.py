"""Results of a batch: found by their ids, in any order, and stored as answers of the requests that they are for.

The result files are read twice: once for the places of each bucket's lines, and then bucket by bucket, so that memory
is bounded by one bucket's answers. A line counts once; of several with one id the first that is an answer does.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from hydra_ray.errors import EndpointError
from hydra_ray.findings import counted
from hydra_ray.generate.batches.lines import MISSING, LineForm, ResultLine, read_line, read_result
from hydra_ray.generate.batches.records import BatchFolder, BatchRecord
from hydra_ray.generate.call_faults import Fault
from hydra_ray.generate.completion_store import CompletionStore, batched
from hydra_ray.generate.failures import TRANSIENT
from hydra_ray.generate.refusals import MANY_REFUSALS, Refusals
from hydra_ray.generate.replies import Answered
from hydra_ray.rows import Completion, Generation, Request

logger = logging.getLogger(__name__)
_MANY_UNUSABLE = 3
"""Number of paid replies that cannot be used, none being usable, that means that none will be."""


@dataclass(slots=True, kw_only=True)
class Merged:
    """What a batch came to."""

    num_answered: int = 0
    """Requests with answers, which are stored."""
    num_refused: int = 0
    """Requests that were refused for good, which is stored too."""
    faults: dict[str, Fault] = field(default_factory=dict)
    """Reasons why requests have no result and may be asked again, by request id."""
    refusal: EndpointError | None = None
    """Error with which every further request would fail, if any."""
    causes: list[tuple[Fault, Mapping[str, Any]]] = field(default_factory=list)
    """The first faults that the form of the requests may be the cause of, with the bodies."""

    @property
    def num_unusable(self) -> int:
        """Number of paid replies among `causes` that cannot be used."""
        return sum(fault.is_unreadable for fault, _ in self.causes)

    def note(self, fault: Fault, sent: Mapping[str, Any]) -> None:
        """Note a fault that may be that of every request."""
        if (fault.is_final or fault.is_unreadable) and len(self.causes) < MANY_REFUSALS:
            self.causes.append((fault, sent))


def merge_results(
    record: BatchRecord, folder: BatchFolder, store: CompletionStore, files: Sequence[IO[bytes]], form: LineForm
) -> Merged:
    """Store the answers in the result files of a batch; repeated calls store the same.

    Args:
        files: output and error files, seekable.

    Returns:
        What the batch came to. Nothing is stored where every request was refused, as their form is the likely cause.
    """
    index = _Index(files)
    merged, refused = Merged(), list[tuple[int, list[Completion]]]()
    asker = batched(record.asker)
    for bucket, requests in folder.requests(record.key):
        answered, failed = _read_bucket(bucket, requests, index, form, merged)
        store.write(bucket, asker, answered)
        refused.append((bucket, failed))
    merged.refusal = merged.refusal or _refusal(record, merged, form)
    if merged.num_answered or merged.refusal is None:
        for bucket, failed in refused:
            store.write(bucket, asker, failed)
            store.merge(bucket, asker)
    index.count_rest()
    _tell(record, index.odd)
    return merged


class _Index:
    """Places of the lines of result files by bucket."""

    def __init__(self, files: Sequence[IO[bytes]]):
        self._files = files
        self._places: dict[int, list[tuple[int, int]]] = {}
        self.odd: Counter[str] = Counter()
        for number, file in enumerate(files):
            file.seek(0)
            while line := file.readline():
                self._add(line, number, file.tell() - len(line))

    def take(self, bucket: int) -> Iterator[ResultLine]:
        """Yield the lines of a bucket, and forget their places."""
        for number, offset in self._places.pop(bucket, ()):
            self._files[number].seek(offset)
            found = read_line(self._files[number].readline())
            if found is not None:
                yield found

    def count_rest(self) -> None:
        """Count the lines of buckets that were not taken as unknown."""
        if num_left := sum(map(len, self._places.values())):
            self.odd["unknown"] += num_left

    def _add(self, line: bytes, number: int, offset: int) -> None:
        if not line.strip():
            return
        found = read_line(line)
        if found is None:
            self.odd["unreadable"] += 1
        elif found.bucket is None:
            self.odd["unknown"] += 1
        else:
            self._places.setdefault(found.bucket, []).append((number, offset))


def _read_bucket(
    bucket: int, requests: Sequence[Request], index: _Index, form: LineForm, merged: Merged
) -> tuple[list[Completion], list[Completion]]:
    """Return the answered and the refused completions of a bucket, and add to what the batch came to."""
    wanted = {
        custom_id: (request, samples)
        for request in requests
        for custom_id, samples in form.custom_ids(bucket, request).items()
    }
    results: dict[str, Answered | Fault] = {}
    for line in index.take(bucket):
        if line.custom_id not in wanted:
            index.odd["unknown"] += 1
            continue
        if line.custom_id in results:
            index.odd["repeated"] += 1
            if isinstance(results[line.custom_id], Answered):
                continue
        request, samples = wanted[line.custom_id]
        try:
            result = results[line.custom_id] = read_result(line, request, samples, form)
            if isinstance(result, Fault):
                merged.note(result, form.body(request, samples))
        except EndpointError as error:
            merged.refusal = error
            results.setdefault(line.custom_id, MISSING)
    answered, refused = list[Completion](), list[Completion]()
    for request in requests:
        completion = _completion(request, form.custom_ids(bucket, request), results)
        if isinstance(completion, Fault):
            merged.faults[request.request_id] = completion
        elif completion.error is None:
            answered.append(completion)
        else:
            refused.append(completion)
    merged.num_answered += len(answered)
    merged.num_refused += len(refused)
    return answered, refused


def _completion(
    request: Request, lines: Mapping[str, range], results: Mapping[str, Answered | Fault]
) -> Completion | Fault:
    """Return the completion of a request's lines, or why it has none and may be asked again."""
    prompt_tokens, generations = 0, list[Generation]()
    for custom_id in lines:
        result = results.get(custom_id, MISSING)
        if isinstance(result, Fault):
            is_kept = result.is_final and result.kind not in TRANSIENT
            return failed_completion(request, result, len(lines)) if is_kept else result
        prompt_tokens += result.prompt_tokens
        generations += result.generations
    return Completion(
        request_id=request.request_id,
        user_id=request.user_id,
        prompt_tokens=prompt_tokens,
        generations=tuple(generations),
        error=None,
        attempts=len(lines),
    )


def failed_completion(request: Request, fault: Fault, num_attempts: int) -> Completion:
    """Return the completion of a request that failed."""
    return Completion(
        request_id=request.request_id,
        user_id=request.user_id,
        prompt_tokens=0,
        generations=(),
        error=f"{fault.message}, {counted(num_attempts, 'attempt')} in batches",
        failure=fault.kind,
        attempts=num_attempts,
    )


def _refusal(record: BatchRecord, merged: Merged, form: LineForm) -> EndpointError | None:
    """Return the error that stops the run where nothing was answered, and the form of the requests is the cause."""
    if merged.num_answered:
        return None
    if merged.num_unusable >= _MANY_UNUSABLE:
        return EndpointError(
            f"the endpoint {record.base_url} answered the batch {record.batch_id}, but no reply can be used: "
            f"{merged.causes[0][0].message}. Correct the settings in generator.api; nothing is asked again."
        )
    judged = Refusals(form.api)
    try:
        for fault, sent in merged.causes:
            if fault.is_final:
                judged.refused(fault, sent)
    except EndpointError as error:
        return error
    return None


def _tell(record: BatchRecord, odd: Mapping[str, int]) -> None:
    if odd:
        told = ", ".join(f"{number} {what}" for what, number in sorted(odd.items()))
        logger.warning(
            "batch %s: lines of its results that are not used: %s (unknown are also those of users who were forgotten "
            "meanwhile)",
            record.batch_id,
            told,
        )
