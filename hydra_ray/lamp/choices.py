"""Choices of a preference task: what was asked and the candidates, as the one text that a record's or query's input is.

In users' files a record is {input?, chosen, rejected, id?, date?, op?}, where `rejected` is one candidate or a list of
them, and a query {input?, candidates, id?, target?}, whose target is the preferred candidate. A record's output is the
candidate that was chosen. The candidates of a record are stored in alphabetical order, so that their order says nothing
and equal choices are equal texts; those of a query in the order in which they are given.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hydra_ray.config import Task
from hydra_ray.lamp.field_checks import MalformedError, input_of, list_of, make_record, text_of
from hydra_ray.rows import Query, Record

CANDIDATES, CHOSEN, REJECTED = "candidates", "chosen", "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was asked, and the candidates among which to choose."""

    asked: str
    """Text that all candidates answer; may be empty."""
    candidates: tuple[str, ...]
    """Distinct texts, at least two."""

    @property
    def text(self) -> str:
        """The choice as an input."""
        return json.dumps([self.asked, *self.candidates], ensure_ascii=False)

    @classmethod
    def of_text(cls, text: str) -> "Choice":
        """Return the choice that an input stands for."""
        asked, *candidates = json.loads(text)
        return cls(asked=asked, candidates=tuple(candidates))


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


def read_preference(task: Task, fields: Mapping[str, Any], record_id: str, what: str) -> Record:
    """Return the record of a preference.

    Args:
        what: what the fields are, for errors.

    Raises:
        MalformedError: the candidates are no two different texts, or another field is invalid.
    """
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
        MalformedError: the candidates are no two different texts, or the target is none of them.
    """
    given = fields.get(CANDIDATES)
    if given is None:
        raise MalformedError(f"{what} has no candidates; without a generator nothing else can be chosen among")
    if fields.get(CHOSEN) is not None:
        raise MalformedError(f"{what} has candidates, as a query, and a chosen one, as a record; give one of the two")
    if isinstance(given, str):
        given = _decoded(given, f"the candidates of {what}")
    candidates = _distinct([*_candidates(list_of(given, f"the candidates of {what}"), what)], what)
    target = fields.get("target")
    if target is not None:
        target = _candidate(target, f"the target of {what}")
        if target not in candidates:
            raise MalformedError(f"the target of {what} is none of its {len(candidates)} candidates")
    choice = Choice(asked=_asked(fields, what), candidates=tuple(candidates))
    return Query(query_id=query_id, input=choice.text, target=target)


def pairs_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the pairs of the chosen candidate and each rejected one."""
    for candidate in Choice.of_text(record.input).candidates:
        if candidate != record.output:
            yield record.output, candidate


def _asked(fields: Mapping[str, Any], what: str) -> str:
    given = fields.get("input")
    return "" if given is None else input_of(given, f"the input of {what}").strip()


def _listed(given: object, what: str) -> list[str]:
    """Return one candidate or a list of them."""
    return [*_candidates(cast(list[object], given), what)] if isinstance(given, list) else [_candidate(given, what)]


def _candidates(given: list[Any], what: str) -> Iterator[str]:
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


def _decoded(text: str, what: str) -> object:
    """Return the list that a cell of a table without lists holds as JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        del error  # it holds the text
        raise MalformedError(f"{what} are a text, expected a list, or one written as JSON") from None
