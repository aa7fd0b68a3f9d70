"""Scores of a run without a generator: of labels, or of the candidates of a preference, by records and own heads."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from hydra_ray.adapt.record_answers import chosen_system, gain_reason, likeliest
from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.choices import Choice, candidates_of
from hydra_ray.rows import Draft, Probe, User
from hydra_ray.scorer.heads.store import Lineage
from hydra_ray.serving.known import CODES, KnownUser
from hydra_ray.serving.outcomes import Chosen, Given, Scores
from hydra_ray.serving.own_heads import OwnHeadScorer
from hydra_ray.serving.prompts import ServedPrompt
from hydra_ray.serving.texts import answer_text


class RecordsScorer:
    """Scores what a run without a generator answers with."""

    def __init__(self, task: Task, own_heads: OwnHeadScorer) -> None:
        self._task, self._own_heads = task, own_heads

    @property
    def lineages(self) -> Mapping[str, Lineage]:
        """Lineage of each table of heads, by the name of its stage."""
        return {CODES: self._own_heads.lineage}

    def scores(self, asked: User, known: KnownUser, given: Given) -> Scores:
        """Return the scores of the candidates for the one query of `asked`.

        Args:
            given: candidates of a preference task; of a closed task every label is scored, whatever is given.

        Raises:
            InputError: a candidate is no text.
        """
        head = self._own_heads.name_of(known)
        (query,) = asked.queries
        if self._task.kind == "preference":
            candidates = tuple(dict.fromkeys(_candidates(given)))
            if not candidates:
                return Scores(head=head, by_answer={}, choice=None)
            query = replace(query, input=Choice(asked=query.input, candidates=candidates).text)
        (logs,) = self._own_heads.logs_of(replace(asked, queries=(query,)), known).queries
        candidates = candidates_of(self._task, query.input)
        return Scores(
            head=head,
            by_answer=dict(zip(candidates, logs.by_own, strict=True)),
            choice=likeliest(self._task, candidates, logs.by_own),
        )

    def chosen(self, asked: User, known: KnownUser, given: Given) -> Chosen:
        """Return the candidate that the run would have answered with.

        Args:
            given: as in `scores`.

        Raises:
            InputError: as in `scores`.
        """
        model, scores = self._own_heads.model, self.scores(asked, known, given)
        return Chosen(
            answer=scores.choice,
            error=None if scores.choice is not None else "there are no candidates to choose among",
            system=chosen_system(model),
            reason=gain_reason(model),
            by_answer=scores.by_answer,
        )

    def prompts(self, asked: User, known: KnownUser) -> Iterator[ServedPrompt]:
        """Yield nothing: no generator is asked."""
        del asked, known
        return iter(())


def _candidates(given: Given) -> Iterator[str]:
    for place, each in enumerate(given):
        if isinstance(each, Draft | Probe):
            raise InputError(f"candidate {place} is a {type(each).__name__}; the run has no generator: expected texts.")
        yield answer_text(each, f"candidate {place}").strip()
