"""Prompts of each query, and the temperatures at which each is sampled.

Every query has the prompts whose answers are drafts. An evaluated query also has those of the baselines and of the
controls, so that all systems are compared on the same users and the same generator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hydra_ray.config import DraftsConfig, Task
from hydra_ray.rerank.reranker_examples import select_records
from hydra_ray.retrieve.ranking import RankedQuery
from hydra_ray.rows import ScoredGroup, User
from hydra_ray.seeds import rng_of

GREEDY = 0.0
LEAD = "lead_k"
RERANKED = ("personal", "shared", "shuffled")
"""Prompts with the records selected by the reranker's heads: the user's own, the shared one, another user's."""
PROFILE_PROMPTS = {"pag_0": 0, "pag_1": 1}
"""Prompts with the generator's summary of the user, and the number of best records in them; "pag_k" has k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a query. Key: name, among the prompts of its query."""

    name: str
    """"zero_shot"; "rag_1", "rag_2", "rag_k": the retriever's best records; "lead_k": the first words of k records and
    of the query; "random_k"; "pag_0", "pag_1", "pag_k"; or one of RERANKED."""
    record_ids: tuple[str, ...]
    """Ids of the records, best first."""
    has_profile: bool
    max_words: int | None
    """Number of words to which the query and the records' inputs are truncated; None for no limit."""
    temperatures: tuple[float, ...]
    """Temperatures of the requests: one sample at GREEDY, b samples at every other."""


def prompts_of(
    user: User, ranked: RankedQuery, scores: ScoredGroup | None, has_profile: bool, config: DraftsConfig
) -> Iterator[Prompt]:
    """Yield the prompts of a query, each with at least one temperature.

    Args:
        scores: the reranker's scores; None where no record could be retrieved.
        has_profile: whether there is a summary of the user.
    """
    is_evaluated = user.is_evaluated() and not ranked.is_pseudo
    retrieved = [each.record_id for each in ranked.retrieved]
    for name, record_ids in _records(user, ranked, scores, config):
        is_baseline = is_evaluated and name != LEAD
        is_asked = is_baseline or name in config.prompts or (name == "personal" and "reranked" in config.prompts)
        greedy = (GREEDY,) if is_asked else ()
        samples = config.temperatures if _is_sampled(name, is_evaluated, config) else ()
        if greedy or samples:
            yield Prompt(
                name=name,
                record_ids=tuple(record_ids),
                has_profile=False,
                max_words=config.lead_words if name == LEAD else None,
                temperatures=greedy + samples,
            )
    if is_evaluated and has_profile:
        for name, num_records in {**PROFILE_PROMPTS, "pag_k": config.num_records}.items():
            yield Prompt(
                name=name,
                record_ids=tuple(retrieved[:num_records]),
                has_profile=True,
                max_words=None,
                temperatures=(GREEDY,),
            )


def prompts_behind(
    variant: str, user: User, ranked: RankedQuery, scores: ScoredGroup | None, task: Task, config: DraftsConfig
) -> Iterator[Prompt]:
    """Yield the prompts of an evaluated query whose answers a head chooses among or looks at: without those that are
    for baselines and controls alone.

    Args:
        variant: one of RERANKED: the head of the reranker that selects the records.
        scores: as in `prompts_of`.
    """
    for prompt in prompts_of(user, ranked, scores, False, config):
        name = "reranked" if prompt.name == variant else prompt.name
        # In closed tasks a feature compares each label with RAG's answer, whatever the drafts are.
        is_greedy = name in config.prompts or (task.is_closed and name == "rag_k")
        kept = {GREEDY: is_greedy, **dict.fromkeys(config.temperatures, name in config.sampled_prompts)}
        temperatures = tuple(each for each in prompt.temperatures if kept[each])
        if temperatures:
            yield replace(prompt, temperatures=temperatures)


def _records(
    user: User, ranked: RankedQuery, scores: ScoredGroup | None, config: DraftsConfig
) -> Iterator[tuple[str, Sequence[str]]]:
    retrieved = [each.record_id for each in ranked.retrieved]
    k = config.num_records
    yield "zero_shot", ()
    yield "random_k", _random_records(user, ranked, k)
    yield "rag_1", retrieved[:1]
    yield "rag_2", retrieved[:2]
    yield "rag_k", retrieved[:k]
    yield LEAD, retrieved[:k]
    for variant in RERANKED:
        candidates = scores.candidates if scores else ()
        yield variant, select_records({each.candidate_id: getattr(each, variant) for each in candidates}, k)


def _is_sampled(name: str, is_evaluated: bool, config: DraftsConfig) -> bool:
    """Return whether a prompt is sampled; the vote of the retriever's samples is also a baseline."""
    if name == "rag_k":
        return is_evaluated or name in config.sampled_prompts
    if name in RERANKED:
        return "reranked" in config.sampled_prompts and (is_evaluated or name == "personal")
    return name in config.sampled_prompts


def _random_records(user: User, ranked: RankedQuery, num: int) -> list[str]:
    order = rng_of(0, "random records", user.user_id, ranked.query.query_id).permutation(len(ranked.eligible))
    return [ranked.eligible[place].record_id for place in order[:num]]
