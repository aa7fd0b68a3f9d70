"""Feedback: what people say of the answers that they were given, and the records that it becomes.

A row is {user_id, query_id, chosen | thumb | edited, run?, date?}. `chosen` is the answer that the person prefers, its
text or its place among the candidates, `thumb` says `up` or `down` to the answer that was given, and `edited` is the
person's own text. A record holds no more than what was said:

- in a closed task the right label: the chosen or edited one, or that of a thumb up. A thumb down only says what is
  wrong, which of two labels makes the other one right;
- in a preference task what is better than what: the chosen candidate or the own text than all candidates; of a thumb
  the answer than each other candidate, or each other than the answer;
- of free text only the person's own. What was chosen or praised is a text of the generator: as a record it would pass
  for one that the person wrote. It is kept as a judgement of the drafts instead, and so is how near each comes to the
  own text (`hydra_ray.lamp.judgements`).

The record and the judgement of a query are named after it, so that the last word about a query counts.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.choices import Choice, Ranking, ranked_record
from hydra_ray.lamp.field_checks import (
    MalformedError,
    id_of,
    make_record,
    mapping_of,
    seconds_of,
    text_of,
    user_id_or_empty,
)
from hydra_ray.lamp.given_answers import GivenAnswer, given_answers
from hydra_ray.lamp.input_files import InputFile
from hydra_ray.lamp.judgements import comparison, drafts_of, preference
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.lamp.row_files import open_rows
from hydra_ray.rows import Judgement, Query, Record, Rejected, User
from hydra_ray.runs.updates import Line

CHOSEN, THUMB, EDITED = "chosen", "thumb", "edited"
KINDS = (CHOSEN, THUMB, EDITED)
"""What can be said of an answer."""
UP, DOWN = "up", "down"
_REQUIRED = ("user_id", "query_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What a user says of the answer to a query. Key: (source, position)."""

    source: str
    position: int
    user_id: str
    query_id: str
    run: str | None
    """Run that answered; None for the newest that answered a query of this id."""
    kind: str
    """One of KINDS."""
    value: str
    is_place: bool
    """Whether the value is the place of a candidate, and no text."""
    date: int | None
    """Seconds since 1970 (UTC)."""


def read_feedback(files: Sequence[InputFile]) -> Iterator[Feedback | Rejected]:
    """Yield the rows of some files, in their order, or the reason for a row's rejection.

    Raises:
        InputError: a file cannot be read, or there is no row in any.
    """
    is_empty = True
    for file in files:
        with open_rows(file.location, file.partition, columns=None, required=_REQUIRED) as opened:
            for position, row in opened.rows:
                is_empty = False
                try:
                    yield _read(file.location, position, row)
                except MalformedError as error:
                    yield Rejected(
                        source=file.location, position=position, sample_id=user_id_or_empty(row), reason=error.reason
                    )
    if is_empty:
        raise InputError("there is no row in what was handed in; expected rows of user_id, query_id and what is said")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What the feedback of some users becomes."""

    samples: Sequence[Sample]
    """The users with the records and judgements."""
    rejected: Sequence[Rejected]
    """Rows that become neither."""
    num_answers: int
    """Number of answers that the rows are about; some may be about queries that got none."""
    num_preferred: int
    """Number of these that are right, or better than all others that they were chosen from, by the last word about
    each."""


def taught_users(task: Task, line: Line, bucket: int, said: Sequence[Feedback], features: Sequence[str]) -> Taught:
    """Return what the feedback of the users of a bucket becomes.

    Args:
        line: the runs whose answers the feedback is on.
        said: feedback of users of the bucket, the last word about a query last.
        features: names of the handcrafted features of drafts.
    """
    given = given_answers(task, line, bucket, {(each.user_id, each.query_id, each.run) for each in said})
    records: dict[str, dict[str, Record]] = {}
    judgements: dict[str, dict[str, Judgement]] = {}
    first: dict[str, Feedback] = {}
    rejected: list[Rejected] = []
    verdicts: dict[tuple[str, str, str | None], bool] = {}
    for each in said:
        about = (each.user_id, each.query_id, each.run)
        try:
            answer = given.answer(*about)
            if each.kind == THUMB and answer.answer is not None:
                verdicts[about] = each.value == UP  # counted also where it says nothing to learn from
            record = record_of(task, answer, each)
            judgement = judgement_of(task, answer, each, features)
        except MalformedError as error:
            place: dict[str, Any] = {"source": each.source, "position": each.position, "sample_id": each.user_id}
            rejected.append(Rejected(**place, reason=error.reason))
            continue
        if each.kind != THUMB and answer.answer is not None:
            verdicts[about] = _is_answer(task, answer, each, record)
        first.setdefault(each.user_id, each)
        if record is not None:
            records.setdefault(each.user_id, {})[record.record_id] = record
        if judgement is not None:
            judgements.setdefault(each.user_id, {})[judgement.judgement_id] = judgement
    samples = [
        Sample(
            source=begin.source,
            position=begin.position,
            sample_id=user_id,
            user=User(user_id=user_id, is_new=True, history=tuple(own.values()), queries=()),
            awaits_target=False,
            replaced=tuple(own),
            judgements=tuple(judgements.get(user_id, {}).values()),
        )
        for user_id, begin in first.items()
        for own in [records.get(user_id, {})]
    ]
    return Taught(samples=samples, rejected=rejected, num_answers=len(verdicts), num_preferred=sum(verdicts.values()))


def record_of(task: Task, given: GivenAnswer, said: Feedback) -> Record | None:
    """Return the record that feedback on an answer becomes; None where it tells of a text that a generator wrote.

    Raises:
        MalformedError: it says nothing that a record could hold.
    """
    query, name = given.query, _name_of(given.query)
    _require_answer(given, said)
    if task.kind == "preference":
        return ranked_record(task, name, _ranking(query, given.answer, said), said.date)
    if task.kind == "text" and said.kind != EDITED:
        return None
    output = said.value if said.kind != THUMB else _right_label(task, given.answer, said)
    return make_record(task, name, query.input, output, said.date)


def judgement_of(task: Task, given: GivenAnswer, said: Feedback, features: Sequence[str]) -> Judgement | None:
    """Return the judgement that feedback on an answer of a text task becomes; None of another task, and of the own text
    where no drafts are kept that it could be compared with.

    Args:
        features: names of the handcrafted features of drafts.

    Raises:
        MalformedError: it says nothing of kept drafts.
    """
    if task.kind != "text":
        return None
    name = _name_of(given.query)
    if said.kind == EDITED:
        return comparison(task, name, given, said.value, features) if given.drafts else None
    _require_answer(given, said)
    named = _named(task, given, said) if said.kind == CHOSEN else str(given.answer)
    return preference(name, given, named, features, is_better=said.kind == CHOSEN or said.value == UP)


def _is_answer(task: Task, given: GivenAnswer, said: Feedback, record: Record | None) -> bool:
    """Return whether the answer that was given is what the person chose or wrote."""
    if task.is_closed:
        assert record is not None, "a label is a record"
        return record.output == given.answer
    return _named(task, given, said) == given.answer


def _named(task: Task, given: GivenAnswer, said: Feedback) -> str:
    """Return the text that the person chose or wrote."""
    if said.kind == EDITED:
        return said.value
    if task.kind == "preference":
        return _chosen(Choice.of_text(given.query.input).candidates, said)
    return _chosen([each.text for each in drafts_of(given).candidates], said)


def _name_of(query: Query) -> str:
    """Return the name of what is said of a query."""
    return f"feedback:{query.query_id}:{hashlib.blake2b(query.input.encode(), digest_size=4).hexdigest()}"


def _require_answer(given: GivenAnswer, said: Feedback) -> None:
    if said.kind == THUMB and given.answer is None:
        raise MalformedError(f"the query {given.query.query_id!r} got no answer that a thumb could be about")


def _right_label(task: Task, answer: str | None, said: Feedback) -> str:
    assert answer is not None, "a thumb is about an answer"
    if said.value == UP:
        return answer
    others = [label for label in task.labels if label != answer]
    if len(others) != 1:
        raise MalformedError(
            f"a thumb down does not say which of the {len(others)} other labels is right; say it in `chosen`"
        )
    return others[0]


def _ranking(query: Query, answer: str | None, said: Feedback) -> Ranking:
    choice = Choice.of_text(query.input)
    if said.kind == THUMB:
        best = str(answer)
    else:
        best = _chosen(choice.candidates, said) if said.kind == CHOSEN else said.value
    others = tuple(sorted(each for each in choice.candidates if each != best))
    if not others:
        raise MalformedError("the answer was the only candidate: feedback on it says nothing of others")
    levels = ((best,), others) if said.value != DOWN or said.kind != THUMB else (others, (best,))
    return Ranking(asked=choice.asked, levels=levels)


def _chosen(candidates: Sequence[str], said: Feedback) -> str:
    if not said.is_place and said.value in candidates:
        return said.value
    if not said.value.isdecimal() or int(said.value) >= len(candidates):
        raise MalformedError(f"the chosen answer is none of the {len(candidates)} candidates, nor the place of one")
    return candidates[int(said.value)]


def _read(source: str, position: int, row: object) -> Feedback:
    if isinstance(row, MalformedError):
        raise row
    fields = mapping_of(row, "the row")
    said = [name for name in KINDS if fields.get(name) is not None]
    if len(said) != 1:
        found = " and ".join(said) or "nothing"
        raise MalformedError(f"the row has {found} to say; expected one of {', '.join(KINDS)}")
    (kind,) = said
    run = fields.get("run")
    return Feedback(
        source=source,
        position=position,
        user_id=id_of(fields.get("user_id"), "user_id"),
        query_id=id_of(fields.get("query_id"), "query_id"),
        run=None if run is None else id_of(run, "run"),
        kind=kind,
        value=_value(kind, fields[kind]),
        is_place=not isinstance(fields[kind], str),
        date=seconds_of(fields.get("date"), "the date"),
    )


def _value(kind: str, given: object) -> str:
    text = text_of(given, kind).strip()
    if not text:
        raise MalformedError(f"{kind} is empty")
    if kind != THUMB:
        return text
    if text.casefold() not in (UP, DOWN):
        raise MalformedError(f"thumb is neither {UP} nor {DOWN}")
    return text.casefold()
