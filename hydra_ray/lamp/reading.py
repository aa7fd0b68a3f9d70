"""LaMP's official files as a stream of users, one sample at a time.

A sample is an entry of `<split>_questions.json`; its target is in `<split>_outputs.json`, in any order. What cannot be
used becomes a Rejected with its reason; what is not a LaMP file at all is an InputError.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import IO, Any, cast

import ijson  # pyright: ignore[reportMissingTypeStubs]

from hydra_ray import storage
from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.quality import canonical_label
from hydra_ray.records import Query, Record, Rejected, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A well-formed user of an input file. Key: (source, position)."""

    source: str
    position: int
    sample_id: str
    user: User
    awaits_target: bool
    """Whether the targets of the user's queries are in another file and must be joined."""


class MalformedError(Exception):
    """A sample cannot be used; the text is the reason. Never leaves hydra_ray.lamp."""


_QUESTIONS = "_questions.json"


def questions_location(root: str, split: str) -> str:
    """Where LaMP keeps the samples of a split."""
    return storage.join(root, f"{split}{_QUESTIONS}")


def outputs_location(root: str, split: str) -> str:
    """Where LaMP keeps the targets of a split."""
    return storage.join(root, f"{split}_outputs.json")


def user_id_of(split: str, sample_id: str) -> str:
    """A user id that is unique over the splits."""
    return f"{split}:{sample_id}"


def rejected_user_id(rejected: Rejected) -> str:
    """The id of the user whom a rejected sample was to become."""
    split = rejected.source.removesuffix(_QUESTIONS)
    return rejected.sample_id if split == rejected.source else user_id_of(split, rejected.sample_id)


def read_samples(task: Task, root: str, split: str, is_new: bool) -> Iterator[Sample | Rejected]:
    """The samples of a split in the order of the file, without their targets.

    Raises:
        InputError: the questions (or, for training users, the outputs) are missing, or are no JSON array of samples.
    """
    location = questions_location(root, split)
    awaits_target = storage.exists(outputs_location(root, split))
    if not awaits_target and not is_new:
        raise InputError(f"no file {outputs_location(root, split)}: training users need targets; check lamp.root")
    source = location.rsplit("/", 1)[1]
    for position, sample in enumerate(_stream(location, "item", "a JSON array of samples")):
        try:
            user = _read_user(task, split, is_new, sample)
        except MalformedError as error:
            yield Rejected(source=source, position=position, sample_id=_id_or_empty(sample), reason=str(error))
        else:
            yield Sample(
                source=source,
                position=position,
                sample_id=user.queries[0].query_id,
                user=user,
                awaits_target=awaits_target,
            )


def read_targets(root: str, split: str) -> Iterator[tuple[str, str]]:
    """(user_id, target) of every well-formed entry of a split's outputs; nothing where the file does not exist.

    Raises:
        InputError: the file is not JSON with a list "golds".
    """
    location = outputs_location(root, split)
    if not storage.exists(location):
        return
    for gold in _stream(location, "golds.item", 'a JSON object with a list "golds"'):
        try:
            entry = mapping_of(gold, "gold")
            yield user_id_of(split, text_of(entry.get("id"), "id")), text_of(entry.get("output"), "output")
        except MalformedError:
            continue  # the sample that it belongs to is rejected for want of a target


def make_record(task: Task, record_id: str, text: str, output: str, when: object) -> Record:
    """A history record, its output in the task's own terms.

    Raises:
        MalformedError: the output is empty or (where outputs are answers) not one of the task's labels, or the date is
            none.
    """
    what = f"the output of record {record_id!r}"
    return Record(
        record_id=record_id,
        input=text,
        output=checked_output(task, output, what) if task.is_history_labelled else _stripped(output, what),
        date=seconds_of(when, f"the date of record {record_id!r}"),
    )


def checked_output(task: Task, text: str, what: str) -> str:
    """An answer (a labelled record's output or a query's target) in the task's own terms.

    Raises:
        MalformedError: it is empty or not one of the task's labels.
    """
    stripped = _stripped(text, what)
    if not task.is_closed:
        return stripped
    label = canonical_label(task, text)
    if label is None:
        raise MalformedError(f"{what} is {text!r}, not a label of {task.name}")
    return label


def checked_question(task: Task, text: str, what: str) -> str:
    """A query's bare input.

    Raises:
        MalformedError: it is empty or lacks the options that the task's labels stand for.
    """
    question = _stripped(text, what)
    if task.option_pattern and not re.search(task.option_pattern, question, flags=re.DOTALL):
        raise MalformedError(f"{what} lacks the options of {task.name}: {question!r}")
    return question


def require_distinct(ids: Iterable[str], what: str) -> None:
    """Check that no id comes twice.

    Raises:
        MalformedError: one does.
    """
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            raise MalformedError(f"{what} {each!r} comes twice")
        seen.add(each)


def mapping_of(value: object, what: str) -> Mapping[str, Any]:
    """`value`, if it has named fields.

    Raises:
        MalformedError: it has none.
    """
    if not isinstance(value, Mapping):
        raise MalformedError(f"{what} is {type(value).__name__}, not an object")
    return cast(Mapping[str, Any], value)


def list_of(value: object, what: str) -> list[Any]:
    """`value`, if it is a list.

    Raises:
        MalformedError: it is not.
    """
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {'missing' if value is None else type(value).__name__}, not a list")
    return cast(list[Any], value)


def text_of(value: object, what: str) -> str:
    """`value` as text; numbers are written without needless decimals.

    Raises:
        MalformedError: it is neither text nor a number, or holds half a character.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise MalformedError(f"{what} is not valid Unicode") from error
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise MalformedError(f"{what} is {'missing' if value is None else type(value).__name__}, not text")
    is_whole = math.isfinite(value) and abs(value) < 2**63 and value == int(value)
    return str(int(value)) if is_whole else str(value)


def id_of(value: object, what: str) -> str:
    """`value` as an id.

    Raises:
        MalformedError: it is missing or empty.
    """
    text = text_of(value, what)
    if not text:
        raise MalformedError(f"{what} is empty")
    return text


def seconds_of(value: object, what: str) -> int | None:
    """Seconds since 1970 (UTC) from a number, a numeric text or an ISO date; None where there is no date.

    Raises:
        MalformedError: it is something else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        return _timestamp(moment)
    try:
        number = Decimal(str(value))
        if abs(number) < 2**63:
            return int(number)
    except ArithmeticError:
        pass  # not a (sensible) number: perhaps an ISO date
    try:
        return _timestamp(datetime.fromisoformat(str(value)))
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"{what} is {value!r}, neither seconds since 1970 nor an ISO date") from error


def _stripped(text: str, what: str) -> str:
    if not text.strip():
        raise MalformedError(f"{what} is empty")
    return text.strip()


def _timestamp(moment: datetime) -> int:
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _read_user(task: Task, split: str, is_new: bool, sample: object) -> User:
    fields = mapping_of(sample, "sample")
    sample_id = id_of(fields.get("id"), "id")
    question = task.bare_input(text_of(fields.get("input"), "input"))
    if question is None:
        raise MalformedError(f"input lacks the instruction of {task.name} or has nothing after it")
    history = tuple(_read_record(task, record) for record in list_of(fields.get("profile"), "profile"))
    require_distinct((record.record_id for record in history), "record")
    return User(
        user_id=user_id_of(split, sample_id),
        is_new=is_new,
        history=history,
        queries=(Query(query_id=sample_id, input=checked_question(task, question, "input"), target=None),),
    )


def _read_record(task: Task, record: object) -> Record:
    fields = mapping_of(record, "a record")
    record_id = id_of(fields.get("id"), "the id of a record")
    inputs = [
        text_of(fields.get(name), f"field {name!r} of record {record_id!r}").strip() for name in task.record_input
    ]
    output = text_of(fields.get(task.record_output), f"field {task.record_output!r} of record {record_id!r}")
    return make_record(task, record_id, "\n".join(text for text in inputs if text), output, fields.get("date"))


def _id_or_empty(sample: object) -> str:
    try:
        return text_of(mapping_of(sample, "sample").get("id"), "id")
    except MalformedError:
        return ""


def _stream(location: str, prefix: str, expected: str) -> Iterator[Any]:
    if not storage.exists(location):
        raise InputError(f"no file {location}; check lamp.root, lamp.train_split and lamp.new_split")
    with storage.open_input(location) as file:
        is_empty = True
        try:
            for value in ijson.items(file, prefix):
                is_empty = False
                yield value
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise InputError(
                f"{location} is not valid JSON ({' '.join(str(error).split())}); expected {expected}. It starts with "
                f"{_start_of(location)!r}. Download it again: it may be cut off, or an error page in its place."
            ) from error
        if is_empty:
            raise InputError(f"{location} holds nothing to read; expected {expected}")


def _start_of(location: str) -> str:
    file: IO[bytes]
    with storage.open_input(location) as file:
        return file.read(60).decode("utf-8", "replace")
