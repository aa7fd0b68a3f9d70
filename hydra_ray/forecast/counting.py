"""Volume of a sample's requests: requests, tokens, known answers, and shared prefixes.

Letters in shape suffixes: U users of the sample, X counted quantities.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.forecast.past_runs import Written
from hydra_ray.forecast.user_sample import Estimate, UserSample
from hydra_ray.generate.engines.vllm_settings import CPU_BLOCK_TOKENS
from hydra_ray.generate.prompts import render_prompt
from hydra_ray.rows import Completion, Request, User
from hydra_ray.stages.definition import Preview
from hydra_ray.stages.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GPU_BLOCK_TOKENS = 16
"""Tokens per block of the key-value cache on GPUs: prompts share whole blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Number of requests and of their tokens."""

    requests: Estimate
    prompt_tokens: Estimate
    generated_tokens: Estimate

    @property
    def tokens(self) -> Estimate:
        """Prompt and generated tokens together."""
        return self.prompt_tokens + self.generated_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StageVolume:
    """Requests that one stage sends to the generator. Key: name."""

    name: str
    all: Volume
    """All requests, answered before or not."""
    new: Volume
    """Requests never answered before: neither in a run under the same root nor in an earlier stage of this one."""
    reused_share: float
    """Share of the new prompts' tokens that the prefix cache holds when they are needed."""
    is_exact: bool
    """Whether the prompts are exact: every user was counted, and nothing in them was guessed."""


def count_stages(
    plan: Plan, sample: UserSample, tokenizer: "PreTrainedTokenizerBase", written: Written, *, is_blind: bool
) -> list[StageVolume]:
    """Return the requests of each generating stage, for all users.

    Args:
        written: expected lengths of generations that are not known.
        is_blind: whether to ignore what the run has computed and the store knows.
    """
    asking = plan.asking()
    tallies = {name: _Tally(name, tokenizer, plan.config.generator, written, _block_tokens(plan)) for name in asking}
    for bucket, users in sample.users.items():
        asked = previewed_requests(plan, bucket, users, tokenizer, written, is_blind=is_blind)
        known = {} if is_blind else plan.completions.read(bucket, [each for own in asked.values() for each in own])
        before: set[str] = set(known)
        for name, requests in asked.items():
            tallies[name].add(users_of(requests, [user.user_id for user in users]), known, before)
            before |= {request.request_id for request in requests}
    is_whole = sample.size == sample.num_users
    return [
        tally.volume(sample, is_exact=is_whole and not asking[name].is_guessed(plan, is_blind))
        for name, tally in tallies.items()
    ]


def previewed_requests(
    plan: Plan,
    bucket: int,
    users: Sequence[User],
    tokenizer: "PreTrainedTokenizerBase",
    written: Written,
    *,
    is_blind: bool,
) -> dict[str, list[Request]]:
    """Return the distinct requests of some users of one bucket, by stage; a stage may repeat those of an earlier one.

    Args:
        written: lengths of what was never generated.
        is_blind: whether not to look at what the run has computed already.
    """
    preview = Preview(
        plan=plan, bucket=bucket, users=users, tokenizer=tokenizer, expected_tokens=written.of, is_blind=is_blind
    )
    return {
        name: list({each.request.request_id: each.request for each in asks.preview(preview)}.values())
        for name, asks in plan.asking().items()
    }


def label_tokens(sample: UserSample, task: Task, tokenizer: "PreTrainedTokenizerBase") -> float:
    """Return the mean length of a label and its end token, weighted by the labels' frequencies in the sample's
    histories."""
    lengths = {label: 1 + len(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in task.labels}
    outputs = (record.output for users in sample.users.values() for user in users for record in user.history)
    known = [lengths[output] for output in outputs if output in lengths] or list(lengths.values())
    return float(np.mean(known))


def users_of(requests: Sequence[Request], user_ids: Sequence[str]) -> list[list[Request]]:
    """Return the requests grouped by user, in the order of `user_ids`."""
    by_user: dict[str, list[Request]] = {user_id: [] for user_id in user_ids}
    for request in requests:
        by_user[request.user_id].append(request)
    return list(by_user.values())


def shared_prefix_tokens(prompts: Sequence[Sequence[int]], block: int) -> int:
    """Return the number of prompt tokens of a batch that the prefix cache provides, in the engine's (sorted) order.

    In sorted order, the longest prefix that a prompt shares with any earlier one is shared with its predecessor. The
    last token of a prompt is always computed.
    """
    return sum(_common(first, second) // block * block for first, second in pairwise(sorted(map(list, prompts))))


class _Tally:
    """Accumulates one stage's requests, user by user."""

    def __init__(
        self, name: str, tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig, written: Written, block: int
    ):
        self._name, self._tokenizer, self._config, self._written, self._block = name, tokenizer, config, written, block
        self._rows: list[tuple[float, ...]] = []
        self._reused_tokens = self._prompt_tokens = 0

    def add(self, by_user: Sequence[Sequence[Request]], known: Mapping[str, Completion], before: set[str]) -> None:
        """Count one bucket's requests.

        Args:
            known: completions in the store.
            before: ids of the requests that are answered when the stage starts.
        """
        requests = [request for own in by_user for request in own]
        texts = [render_prompt(request.messages, self._tokenizer, self._config) for request in requests]
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        prompts = {request.request_id: own for request, own in zip(requests, ids, strict=True)}
        new = [prompts[request.request_id] for request in requests if request.request_id not in before]
        self._reused_tokens += shared_prefix_tokens(new, self._block)
        self._prompt_tokens += sum(map(len, new))
        for own in by_user:
            lengths = [(len(prompts[each.request_id]), self._length(each, known)) for each in own]
            is_new = [each.request_id not in before for each in own]
            self._rows.append(
                (*_sums(lengths), *_sums([each for each, new in zip(lengths, is_new, strict=True) if new]))
            )

    def volume(self, sample: UserSample, *, is_exact: bool) -> StageVolume:
        """Return the counts extrapolated to all users."""
        rows_UX: NDArray[np.float64] = np.array(self._rows, np.float64).reshape(-1, 6)
        totals = [sample.total(rows_UX[:, place]) for place in range(6)]
        return StageVolume(
            name=self._name,
            all=Volume(requests=totals[0], prompt_tokens=totals[1], generated_tokens=totals[2]),
            new=Volume(requests=totals[3], prompt_tokens=totals[4], generated_tokens=totals[5]),
            reused_share=self._reused_tokens / max(self._prompt_tokens, 1),
            is_exact=is_exact,
        )

    def _length(self, request: Request, known: Mapping[str, Completion]) -> float:
        """Return the number of generated tokens: the actual one, or the expected one."""
        if request.request_id in known:
            return sum(each.num_tokens for each in known[request.request_id].generations)
        return self._written.of(self._name, request.max_tokens) * request.num_samples


def _sums(lengths: Sequence[tuple[int, float]]) -> Iterator[float]:
    yield len(lengths)
    yield sum(prompt for prompt, _ in lengths)
    yield sum(generated for _, generated in lengths)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix of two prompts, without the second's last token."""
    length = 0
    for one, other in zip(first, second[:-1], strict=False):
        if one != other:
            break
        length += 1
    return length


def _block_tokens(plan: Plan) -> int:
    given = plan.config.generator.engine_args.get("block_size")
    if isinstance(given, int):
        return given
    return CPU_BLOCK_TOKENS if plan.config.placement.generator_gpus == 0 else GPU_BLOCK_TOKENS
