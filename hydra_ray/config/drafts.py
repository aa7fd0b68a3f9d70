"""The sections `drafts` and `answers`: what is generated for a query, and what is chosen of it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hydra_ray.config.section import Section


class PoolConfig(Section):
    """Candidates of the adapter, out of everything that was generated. No setting here asks the generator anything."""

    candidates: Literal["all", "drafts"] = "all"
    """Candidates in a closed task: all labels, or only labels that some draft gave. In text tasks they are always the
    drafts."""
    num_probes: int = Field(default=4, ge=0)
    """Number of the retriever's best records whose probe answers are drafts, too."""
    has_cuts: bool = True
    """Whether, in text tasks, each draft that runs on is offered cut short as well: to its first clause, and to the
    usual number of words."""


class DraftsConfig(PoolConfig):
    """Stage `drafts`: several proposed answers to each query. In a task of the kind preference, the stage `candidates`
    makes them for queries that bring no candidates."""

    num_records: int = Field(default=4, gt=0)
    """Number k of records in a prompt; at most `probes.num_records`."""
    prompts: tuple[Literal["zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "lead_k", "reranked"], ...] = (
        "zero_shot",
        "rag_1",
        "rag_2",
        "rag_k",
        "reranked",
    )
    """Prompts whose greedy answers are drafts. zero_shot: no records. random_k: k random records. rag_1, rag_2, rag_k:
    the retriever's best 1, 2 or k. lead_k: as rag_k, with the first words only of records and query. reranked: the
    reranker's best k, which the kind preference does not have. With `answers.is_gated`, zero_shot and rag_k must be
    among them, but not in the kind preference."""
    lead_words: int = Field(default=30, gt=0)
    """Number of words of each text in a lead_k prompt: a small generator writes better titles from the beginning of a
    text alone."""
    sampled_prompts: tuple[Literal["rag_k", "lead_k", "reranked"], ...] = ("rag_k",)
    """Prompts whose samples are drafts. rag_k is sampled for evaluated queries in any case: the majority vote of its
    samples is a baseline of the report."""
    num_samples: int = Field(default=8, gt=0)
    """Number b of samples for each prompt and temperature."""
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1)
    """Sampling temperatures; a weak generator's drafts are better below 1."""
    num_pseudo_queries: int = Field(default=10, gt=0)
    """Largest number of a user's pseudo-queries that the adapter learns from: the first of those that were probed, so
    at most `probes.num_pseudo_queries`."""


class AnswersConfig(Section):
    """Stages `gate` and `answers`: one answer to each query."""

    is_gated: bool = True
    """Whether the quality that training users and held-out histories show decides among zero-shot, RAG, the shared head
    and own heads, for all users alike. Without the gate, own heads answer for everybody."""
    has_expected_ratings: bool = True
    """Whether, where wrong labels have some quality too, as ratings near the right one do, the label of the highest
    expected quality is chosen; else that of the highest score, as published. The gate takes the former."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_gated and not self.has_expected_ratings:
            raise ValueError("has_expected_ratings=false needs is_gated=false: the gate judges the usual choice")
        return self
