"""Scores of a run with a generator: of drafts, by the heads of the adapter.

The features are computed exactly as in the run (`adapt/adapter_examples.py`), from the user's history, the records
retrieved for the query, the reranker's weights of them, and the drafts. So the scores are the run's own, up to the
rounding of the encoder, which depends slightly on the texts in its batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from hydra_ray.adapt.adapter_examples import Drafted, adapter_examples
from hydra_ray.adapt.answers import CHOOSERS, Scored, answer_user
from hydra_ray.adapt.choosing import choose
from hydra_ray.adapt.context import greedy_answers
from hydra_ray.adapt.drafts import prompt_request
from hydra_ray.adapt.label_model import LabelModel
from hydra_ray.adapt.prompting import GREEDY, prompts_behind, prompts_of
from hydra_ray.config import RunConfig, Task
from hydra_ray.conversations import Conversation
from hydra_ray.errors import InputError
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.parsing import failed_answer, parse_answer
from hydra_ray.generate.prompts import render_prompt
from hydra_ray.rerank.probes import probe_requests
from hydra_ray.rerank.reranker_examples import reranker_examples, select_records
from hydra_ray.retrieve.dense import Encode
from hydra_ray.retrieve.methods import Search, score_records
from hydra_ray.retrieve.ranking import rank, restore_queries
from hydra_ray.rows import (
    CandidateScore,
    Draft,
    DraftedQuery,
    DraftedUser,
    Group,
    Probe,
    ProbedQuery,
    ProbedUser,
    Record,
    Request,
    Retrieved,
    ScoredGroup,
    ScoredUser,
    User,
)
from hydra_ray.scorer.heads.store import Lineage
from hydra_ray.serving.encoding import KeptVectors
from hydra_ray.serving.export_folder import GENERATOR, SCORERS, Exported, has_tokenizer
from hydra_ray.serving.group_scores import GroupScorer, OwnHead
from hydra_ray.serving.known import CODES, KnownUser
from hydra_ray.serving.outcomes import QUERY_ID, Chosen, Given, Scores
from hydra_ray.serving.own_heads import OwnHeadScorer
from hydra_ray.serving.prompts import PROBE, ServedPrompt, generation_of
from hydra_ray.serving.texts import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN_HEADS = "hydra_personal"
"""System that answers without a gate."""
_GIVEN = "given"
"""Name of the prompt of drafts that are given as text only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What a request's texts are read with, besides heads."""

    encode: KeptVectors
    """Encoder by which texts are compared."""
    search: Encode | None
    """Encoder of the retriever, where it has one."""
    labels: LabelModel | None
    """Label model, where histories have labels."""
    own_heads: OwnHeadScorer | None
    """Own heads that are fitted to all records, where the run has them."""


class DraftsScorer:
    """Selects records, and scores drafts."""

    def __init__(self, exported: Exported, task: Task, models: Models) -> None:
        """Load the bases and head priors.

        Raises:
            StorageError: a part is missing or damaged.
        """
        generator = exported.config.generator
        if has_tokenizer(exported.config):
            generator = generator.model_copy(update={"model": exported.path(GENERATOR)})
        self._exported = exported
        self._config: RunConfig = exported.config.model_copy(update={"generator": generator})
        self._task, self._models = task, models
        self._reranker, self._adapter = (GroupScorer(exported, name, models.encode) for name in SCORERS)

    @property
    def lineages(self) -> Mapping[str, Lineage]:
        """Lineage of each table of heads, by the name of its stage."""
        own = self._models.own_heads
        heads = {"reranker.heads": self._reranker.lineage, "adapter.heads": self._adapter.lineage}
        return heads if own is None else {**heads, CODES: own.lineage}

    def scores(self, asked: User, known: KnownUser, given: Given) -> Scores:
        """Return the scores by the user's head of the candidates for the one query of `asked`.

        Args:
            given: drafts, and answers to prompts with one record.

        Raises:
            InputError: a draft is no text, nor a list of messages that ends with an answer.
        """
        head = self._adapter.own_head(known.heads.get("adapter"))
        scored = self._scored(asked, known, given, "personal", head)
        if scored is None:
            return Scores(head=head.name, by_answer={}, choice=None)
        by_answer = {each.candidate_id: each.personal for each in scored.candidates}
        is_expected = self._config.answers.has_expected_ratings
        choice = choose(scored, "personal", self._task, is_expected=is_expected)
        return Scores(head=head.name, by_answer=by_answer, choice=choice)

    def records(self, asked: User, known: KnownUser) -> list[Record]:
        """Return the k records, best first, that the user's head of the reranker selects for the prompt."""
        reranked = self._reranked(asked, known, self._probed(asked, ()))
        if not reranked.groups:
            return []
        scores = {each.candidate_id: each.personal for each in reranked.groups[0].candidates}
        by_id = {record.record_id: record for record in asked.history}
        return [by_id[record_id] for record_id in select_records(scores, self._config.drafts.num_records)]

    def chosen(self, asked: User, known: KnownUser, given: Given) -> Chosen:
        """Return the answer that the gate's system chooses for the one query of `asked`, as the answers stage does.

        Args:
            given: as in `scores`.

        Raises:
            InputError: as in `scores`, or an earlier version made the export.
        """
        self._require_prompts()
        drafted, gate = self._drafted(asked, given), self._exported.gate
        system = OWN_HEADS if gate is None else gate.choice
        variant, head = CHOOSERS.get(system, CHOOSERS[OWN_HEADS])
        scored = None
        if system not in greedy_answers(drafted.queries[0], variant):  # else no head is needed
            scored = self._scored(asked, known, given, variant, self._adapter.own_head(known.heads.get("adapter")))
        row = Scored(
            user=asked,
            probed=self._probed(asked, ()),
            drafted=drafted,
            reranker=_unranked(asked),
            adapter=replace(_unranked(asked), groups=() if scored is None else (scored,)),
        )
        (answered,) = answer_user(row, self._task, gate, config=self._config.answers).queries
        answer = next(each for each in answered.answers if each.system == "hydra")
        candidates = () if scored is None or answered.choice not in CHOOSERS else scored.candidates
        return Chosen(
            answer=answer.value,
            error=answer.error,
            system=answered.choice,
            reason=answered.reason,
            by_answer={each.candidate_id: getattr(each, head) for each in candidates},
        )

    def prompts(self, asked: User, known: KnownUser) -> Iterator[ServedPrompt]:
        """Yield the prompts that the run would send for the one query of `asked`, as far as its answer depends on them.

        Raises:
            InputError: an earlier version made the export.
        """
        self._require_prompts()
        probed = self._probed(asked, ())
        (ranked,) = restore_queries(asked, probed)
        system = OWN_HEADS if self._exported.gate is None else self._exported.gate.choice
        if system not in CHOOSERS:
            every = prompts_of(asked, ranked, None, False, self._config.drafts)
            prompts = [replace(each, temperatures=(GREEDY,)) for each in every if each.name == system]
        else:
            unprobed = replace(probed, queries=tuple(replace(each, probes=()) for each in probed.queries))
            probes = probe_requests([(asked, unprobed)], self._task, self._tokenizer, self._config)
            for retrieved, probe in zip(ranked.retrieved, probes, strict=True):
                yield self._served(PROBE, (retrieved.record_id,), probe.request)
            scores = next(iter(self._reranked(asked, known, probed).groups), None)
            variant, _ = CHOOSERS[system]
            prompts = prompts_behind(variant, asked, ranked, scores, self._task, self._config.drafts)
        for prompt in prompts:
            for temperature in prompt.temperatures:
                request = prompt_request(
                    asked.user_id, ranked, prompt, temperature, self._task, self._tokenizer, self._config
                )
                yield self._served(prompt.name, prompt.record_ids, request)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        return open_tokenizer(self._config.generator)

    def _require_prompts(self) -> None:
        if not self._exported.has_prompts:
            raise InputError(
                f"{self._exported.folder} was exported by an earlier version, without the gate and the generator's "
                "tokenizer: export the run again to make prompts and choose answers"
            )

    def _served(self, name: str, record_ids: tuple[str, ...], request: Request) -> ServedPrompt:
        generator = self._config.generator
        is_endpoint = generator.api is not None
        return ServedPrompt(
            name=name,
            record_ids=record_ids,
            request=request,
            text=None if is_endpoint else render_prompt(request.messages, self._tokenizer, generator),
            task=self._task,
            generator=generator,
        )

    def _scored(self, asked: User, known: KnownUser, given: Given, variant: str, head: OwnHead) -> ScoredGroup | None:
        """Return the scored candidates of a variant of the reranker's selection; None without any."""
        probes = [each for each in given if isinstance(each, Probe)]
        probed = self._probed(asked, probes)
        # The reranker is only used to weight probes, and encoding its pairs of texts takes longer than everything else.
        reranked = self._reranked(asked, known, probed) if probes else _unranked(asked)
        own = self._models.own_heads
        row = Drafted(
            user=asked,
            probed=probed,
            scored=reranked,
            drafted=self._drafted(asked, given),
            labels=own.logs_of(asked, known) if own is not None and own.counts_for(known) else None,
        )
        (examples,) = adapter_examples(
            [row], self._task, _with_given(self._config), self._models.encode, self._models.labels, [variant]
        )
        if not examples.groups:
            return None
        return _scored_group(examples.groups[0], examples.history, self._adapter, head)

    def _probed(self, asked: User, probes: Sequence[Probe]) -> ProbedUser:
        """Return the query with its retrieved records, and what is known of their probes."""
        retrieved = self._retrieved(asked)
        by_record = {probe.record_id: probe for probe in probes}
        query = ProbedQuery(
            query_id=QUERY_ID,
            is_pseudo=False,
            retrieved=retrieved,
            probes=tuple(by_record.get(each.record_id) or self._no_probe(each.record_id) for each in retrieved),
        )
        return ProbedUser(user_id=asked.user_id, is_new=asked.is_new, queries=(query,))

    def _retrieved(self, user: User) -> tuple[Retrieved, ...]:
        eligible = range(len(user.history))
        if not eligible:
            return ()
        search = Search(query=user.queries[0], is_pseudo=False, eligible=eligible)
        (scores,) = score_records(user, [search], self._config.retrieve, self._models.search)
        best = rank(scores, eligible, self._config.probes.num_records)
        return tuple(Retrieved(record_id=user.history[p].record_id, score=float(scores[p])) for p in best)

    def _no_probe(self, record_id: str) -> Probe:
        """Return a placeholder for a missing probe: it is evidence for or against no label."""
        labels = self._task.labels
        nothing = replace(
            failed_answer("not asked"), label_probabilities=(1 / len(labels),) * len(labels) if labels else ()
        )
        return Probe(record_id=record_id, answer=nothing, quality=None)

    def _reranked(self, asked: User, known: KnownUser, probed: ProbedUser) -> ScoredUser:
        """Return the reranker's scores of the retrieved records."""
        head = self._reranker.own_head(known.heads.get("reranker"))
        examples = reranker_examples(asked, probed, self._task, self._config)
        scored = tuple(_scored_group(group, examples.history, self._reranker, head) for group in examples.groups)
        return ScoredUser(user_id=asked.user_id, is_new=asked.is_new, head=head.name, groups=scored)

    def _drafted(self, asked: User, given: Given) -> DraftedUser:
        drafts = tuple(self._draft(place, each) for place, each in enumerate(given) if not isinstance(each, Probe))
        query = DraftedQuery(query_id=QUERY_ID, is_pseudo=False, prompts=(), drafts=drafts)
        return DraftedUser(user_id=asked.user_id, is_new=asked.is_new, queries=(query,))

    def _draft(self, place: int, draft: str | Conversation | Draft) -> Draft:
        if isinstance(draft, Draft):
            return draft
        text = answer_text(draft, f"draft {place}")
        answer = parse_answer(self._task, generation_of(text))
        return Draft(prompt=_GIVEN, temperature=1.0, sample=place, answer=answer, quality=None)


def _with_given(config: RunConfig) -> RunConfig:
    """Return the configuration in which drafts that are given as text are samples of a prompt of their own."""
    sampled = (*config.drafts.sampled_prompts, _GIVEN)
    return config.model_copy(update={"drafts": config.drafts.model_copy(update={"sampled_prompts": sampled})})


def _unranked(asked: User) -> ScoredUser:
    return ScoredUser(user_id=asked.user_id, is_new=asked.is_new, head="", groups=())


def _scored_group(group: Group, history: Sequence[float], scorer: GroupScorer, head: OwnHead) -> ScoredGroup:
    scores = scorer.scores(group, history, head)
    scores["shuffled"] = scores["personal"]  # there is no other user
    candidates = (
        CandidateScore(candidate_id=each.candidate_id, **{name: float(own[place]) for name, own in scores.items()})
        for place, each in enumerate(group.candidates)
    )
    return ScoredGroup(
        group_id=group.group_id,
        query_id=group.query_id,
        variant=group.variant,
        is_pseudo=group.is_pseudo,
        candidates=tuple(candidates),
    )
