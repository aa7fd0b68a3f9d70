"""Choices of a preference task: what was asked and the candidates, as the one text that a record's or query's input is.

In users' files a record is {input?, chosen, rejected, id?, date?, op?}, where `rejected` is one candidate or a list of
them, and a query {input?, candidates, id?, target?}, whose target is the preferred candidate; or a query {input, id?},
for which a generator drafts the candidates. A record's output is the candidate that was chosen. The candidates of a
record are stored in alphabetical order, so that their order says nothing and equal choices are equal texts; those of a
query in the order in which they are given or drafted.

A record may also be a rated list, {input?, answers: [{text, rating}], ...} or {input?, candidates, ratings, ...}. It
tells a choice for each answer that is not among the worst: itself before all that are rated lower. Without ties this is
the model of Plackett and Luce (Plackett 1975), for two answers that of Bradley and Terry. Answers that are rated alike
are not compared with each other: in Davidson's model of ties (1970), given that a pair is no tie, who wins follows
Bradley and Terry, so that ties may be left out without bias.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

from hydra_ray.config import Task
from hydra_ray.lamp.field_checks import MalformedError, input_of, list_of, make_record, mapping_of, text_of
from hydra_ray.rows import Draft, DraftedQuery, DraftedUser, Query, Record, User

CANDIDATES, CHOSEN, REJECTED = "candidates", "chosen", "rejected"
ANSWERS, RATINGS = "answers", "ratings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was asked, and the candidates among which to choose."""

    asked: str
    """Text that all candidates answer; may be empty where there are candidates."""
    candidates: tuple[str, ...]
    """Distinct texts: two or more where they are given, none of a query for which they are to be drafted, and then as
    many as the generator wrote."""

    @property
    def text(self) -> str:
        """The choice as an input."""
        return json.dumps([self.asked, *self.candidates], ensure_ascii=False)

    @classmethod
    def of_text(cls, text: str) -> "Choice":
        """Return the choice that an input stands for; of a rated list that among all its answers, the best first."""
        ranking = Ranking.of_text(text)
        return cls(asked=ranking.asked, candidates=tuple(each for level in ranking.levels for each in level))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What was asked, and the answers by how they were rated."""

    asked: str
    levels: tuple[tuple[str, ...], ...]
    """Answers that are rated alike, in alphabetical order; the best first. Of a choice each candidate is a level, and
    their order says nothing."""

    @property
    def text(self) -> str:
        """The ranking as an input."""
        return json.dumps([self.asked, *self.levels], ensure_ascii=False)

    @classmethod
    def of_text(cls, text: str) -> "Ranking":
        """Return the ranking that an input stands for."""
        asked, *levels = json.loads(text)
        return cls(asked=asked, levels=tuple((each,) if isinstance(each, str) else tuple(each) for each in levels))

    def choices(self) -> Iterator[tuple[Choice, str]]:
        """Yield each answer that is not among the worst as the chosen one of itself and all that are rated lower."""
        for place, level in enumerate(self.levels):
            lower = [each for others in self.levels[place + 1 :] for each in others]
            for answer in level if lower else ():
                yield Choice(asked=self.asked, candidates=tuple(sorted([answer, *lower]))), answer


def candidates_of(task: Task, text: str) -> tuple[str, ...]:
    """Return the possible answers to an input of a task without free text: its candidates, or the labels."""
    return Choice.of_text(text).candidates if task.kind == "preference" else task.labels


def items_of(task: Task, text: str) -> tuple[str, ...]:
    """Return the texts that an input is about: its candidates, or in a closed task the input itself."""
    return Choice.of_text(text).candidates if task.kind == "preference" else (text,)


def shown_input(task: Task, text: str) -> str:
    """Return an input as people read it: what was asked and each candidate, a line each."""
    if task.kind != "preference":
        return text
    choice = Choice.of_text(text)
    lines = [choice.asked, *(f"[{place}] {each}" for place, each in enumerate(choice.candidates, 1))]
    return "\n".join(filter(None, lines))


def is_ranked(record: Record) -> bool:
    """Return whether a record of a preference task is a rated list and no choice."""
    return any(isinstance(each, list) for each in json.loads(record.input))


def choices_told(record: Record) -> Iterator[Record]:
    """Yield the choices that a record of a preference task tells: itself, or of a rated list one for each answer that
    is not among the worst."""
    if not is_ranked(record):
        yield record
        return
    for place, (choice, answer) in enumerate(Ranking.of_text(record.input).choices()):
        yield replace(record, record_id=f"{record.record_id}#{place}", input=choice.text, output=answer)


def ranked_record(task: Task, record_id: str, ranking: Ranking, date: object) -> Record:
    """Return the record of a ranking: a choice, where one answer is better than all others and these are alike.

    Args:
        date: as it is given.

    Raises:
        MalformedError: the date is invalid.
    """
    first, *others = ranking.levels
    text = ranking.text
    if len(first) == 1 and len(others) == 1:
        text = Choice(asked=ranking.asked, candidates=tuple(sorted([*first, *others[0]]))).text
    return make_record(task, record_id, text, first[0], date)


def read_preference(task: Task, fields: Mapping[str, Any], record_id: str, what: str) -> Record:
    """Return the record of a preference.

    Args:
        what: what the fields are, for errors.

    Raises:
        MalformedError: the candidates are no two different texts, or another field is invalid.
    """
    if fields.get(ANSWERS) is not None or fields.get(RATINGS) is not None:
        return ranked_record(task, record_id, _read_ranking(fields, what), fields.get("date"))
    chosen = _candidate(fields.get(CHOSEN), f"the chosen candidate of {what}")
    rejected = _listed(fields.get(REJECTED), f"the rejected candidate of {what}")
    if chosen in rejected:
        raise MalformedError(f"the chosen candidate of {what} is also a rejected one")
    candidates = _distinct([chosen, *rejected], what)
    choice = Choice(asked=_asked(fields, what), candidates=tuple(sorted(candidates)))
    return make_record(task, record_id, choice.text, chosen, fields.get("date"))


def read_choice(fields: Mapping[str, Any], query_id: str, what: str) -> Query:
    """Return the query for the preferred one of some candidates.

    Args:
        what: what the fields are, for errors.

    Raises:
        MalformedError: the candidates are no two different texts, or the target is none of them; or there are none,
            and nothing is asked for which they could be drafted, or a target.
    """
    given = fields.get(CANDIDATES)
    if given is None:
        return _read_open_query(fields, query_id, what)
    if fields.get(CHOSEN) is not None:
        raise MalformedError(f"{what} has candidates, as a query, and a chosen one, as a record; give one of the two")
    candidates = _distinct([*_candidates(_list(given, f"the candidates of {what}"), what)], what)
    target = fields.get("target")
    if target is not None:
        target = _candidate(target, f"the target of {what}")
        if target not in candidates:
            raise MalformedError(f"the target of {what} is none of its {len(candidates)} candidates")
    choice = Choice(asked=_asked(fields, what), candidates=tuple(candidates))
    return Query(query_id=query_id, input=choice.text, target=target)


def lacks_candidates(query: Query) -> bool:
    """Return whether a query of a preference task has no candidates: none were given, or none were drafted."""
    return not Choice.of_text(query.input).candidates


def with_candidates(user: User, drafted: DraftedUser) -> User:
    """Return a user whose queries have the drafts that were made for them as their candidates.

    Args:
        drafted: drafts of the queries that came without candidates; of one all of whose drafts failed, there stay none.
    """
    texts = {query.query_id: tuple(distinct_drafts(query)) for query in drafted.queries}
    queries = (
        replace(query, input=replace(Choice.of_text(query.input), candidates=texts[query.query_id]).text)
        if query.query_id in texts
        else query
        for query in user.queries
    )
    return replace(user, queries=tuple(queries))


def distinct_drafts(query: DraftedQuery) -> dict[str, Draft]:
    """Return the first draft of each text that the generator wrote for a query, by the text; without what failed."""
    found: dict[str, Draft] = {}
    for draft in query.drafts:
        if draft.answer.value is not None:
            found.setdefault(draft.answer.value, draft)
    return found


def pairs_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the pairs of the chosen candidate and each rejected one."""
    for candidate in Choice.of_text(record.input).candidates:
        if candidate != record.output:
            yield record.output, candidate


def _read_open_query(fields: Mapping[str, Any], query_id: str, what: str) -> Query:
    """Return the query for the preferred one of candidates that a generator is to draft."""
    asked = _asked(fields, what)
    if not asked:
        raise MalformedError(f"{what} has neither candidates to choose among nor an input to draft them for")
    if fields.get("target") is not None:
        raise MalformedError(
            f"{what} has a target and no candidates; the target is one of them: give candidates, or leave target out"
        )
    return Query(query_id=query_id, input=Choice(asked=asked, candidates=()).text, target=None)


def _read_ranking(fields: Mapping[str, Any], what: str) -> Ranking:
    if fields.get(CHOSEN) is not None or fields.get(REJECTED) is not None:
        raise MalformedError(f"{what} has ratings, and a chosen or a rejected candidate; give one of the two")
    texts, ratings = (_rated_answers if fields.get(ANSWERS) is not None else _rated_candidates)(fields, what)
    candidates = _distinct([*_candidates(texts, what)], what)
    rated = [
        (_rating(rating, f"the rating of candidate {place} of {what}"), candidate)
        for place, (rating, candidate) in enumerate(zip(ratings, candidates, strict=True))
    ]
    levels = groupby(sorted(rated, key=lambda each: (-each[0], each[1])), key=itemgetter(0))
    return Ranking(asked=_asked(fields, what), levels=tuple(tuple(text for _, text in level) for _, level in levels))


def _rated_answers(fields: Mapping[str, Any], what: str) -> tuple[list[Any], list[Any]]:
    """Return the texts and the ratings of the field `answers`."""
    if fields.get(CANDIDATES) is not None or fields.get(RATINGS) is not None:
        raise MalformedError(f"{what} has answers, and candidates or ratings; give one of the two")
    given = _list(fields.get(ANSWERS), f"the answers of {what}")
    answers = [mapping_of(each, f"answer {place} of {what}") for place, each in enumerate(given)]
    return [each.get("text") for each in answers], [each.get("rating") for each in answers]


def _rated_candidates(fields: Mapping[str, Any], what: str) -> tuple[list[Any], list[Any]]:
    """Return the texts and the ratings of the fields `candidates` and `ratings`."""
    texts, ratings = (_list(fields.get(name), f"the {name} of {what}") for name in (CANDIDATES, RATINGS))
    if len(texts) != len(ratings):
        raise MalformedError(f"{what} has {len(texts)} candidates and {len(ratings)} ratings, expected one for each")
    return texts, ratings


def _rating(given: object, what: str) -> float:
    text = text_of(given, what)
    try:
        rating = float(text)
    except ValueError:
        raise MalformedError(f"{what} is a text, not a number") from None
    if not math.isfinite(rating):
        raise MalformedError(f"{what} is not finite")
    return rating


def _asked(fields: Mapping[str, Any], what: str) -> str:
    given = fields.get("input")
    return "" if given is None else input_of(given, f"the input of {what}").strip()


def _listed(given: object, what: str) -> list[str]:
    """Return one candidate or a list of them."""
    return [*_candidates(cast(list[object], given), what)] if isinstance(given, list) else [_candidate(given, what)]


def _candidates(given: Sequence[Any], what: str) -> Iterator[str]:
    for place, each in enumerate(given):
        yield _candidate(each, f"candidate {place} of {what}")


def _candidate(given: object, what: str) -> str:
    text = text_of(given, what).strip()
    if not text:
        raise MalformedError(f"{what} is empty")
    return text


def _distinct(candidates: list[str], what: str) -> list[str]:
    if len(set(candidates)) < len(candidates):
        raise MalformedError(f"{what} has a candidate twice")
    if len(candidates) < 2:
        raise MalformedError(f"{what} has {len(candidates)} candidates, expected two or more")
    return candidates


def _list(given: object, what: str) -> list[Any]:
    """Return a list, which a cell of a table without lists holds as JSON."""
    if not isinstance(given, str):
        return list_of(given, what)
    try:
        return list_of(json.loads(given), what)
    except (ValueError, RecursionError) as error:
        del error  # it holds the text
        raise MalformedError(f"{what} are a text, expected a list, or one written as JSON") from None
