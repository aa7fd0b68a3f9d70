"""Reader of LaMP's official files as a stream of users, one sample at a time.

A sample is an entry of `<split>_questions.json`; its target is in `<split>_outputs.json`, in any order. An unusable
sample becomes a Rejected with its reason; a file that is not LaMP's at all is an InputError.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import Task
from hydra_ray.errors import InputError
from hydra_ray.lamp.field_checks import (
    MalformedError,
    checked_question,
    id_of,
    list_of,
    make_record,
    mapping_of,
    require_distinct,
    text_of,
)
from hydra_ray.lamp.json_files import json_items
from hydra_ray.lamp.raw_streams import COMPRESSED_SUFFIXES
from hydra_ray.rows import Judgement, Query, Record, Rejected, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Well-formed user of an input file. Key: (source, position)."""

    source: str
    position: int
    sample_id: str
    user: User
    awaits_target: bool
    """Whether the targets of the user's queries are in another file and must be joined."""
    replaced: tuple[str, ...] = ()
    """Ids of the records that take the place of earlier ones (`hydra_ray.lamp.changes`)."""
    withdrawn: tuple[str, ...] = ()
    """Ids of earlier records that are deleted."""
    judgements: tuple[Judgement, ...] = ()
    """What the user says of drafts (`hydra_ray.lamp.judgements`)."""


QUESTIONS = "_questions.json"
"""Ending of the names of files of samples, before that of a compression."""


def questions_location(root: str, split: str) -> str:
    """Return the location of LaMP's samples of a split."""
    return _plain_or_packed(storage.join(root, f"{split}{QUESTIONS}"))


def outputs_location(root: str, split: str) -> str:
    """Return the location of LaMP's targets of a split."""
    return _plain_or_packed(storage.join(root, f"{split}_outputs.json"))


def _plain_or_packed(location: str) -> str:
    """Return the location, or that of its compressed form where only that exists."""
    if storage.exists(location):
        return location
    return next((each for suffix in COMPRESSED_SUFFIXES if storage.exists(each := location + suffix)), location)


def user_id_of(split: str, sample_id: str) -> str:
    """Return a user id that is unique over the splits."""
    return f"{split}:{sample_id}"


def rejected_user_id(rejected: Rejected) -> str:
    """Return the user id of a rejected sample."""
    split = rejected.source.removesuffix(QUESTIONS)
    return rejected.sample_id if split == rejected.source else user_id_of(split, rejected.sample_id)


def read_samples(task: Task, root: str, split: str, is_new: bool) -> Iterator[Sample | Rejected]:
    """Yield the samples of a split in the order of the file, without their targets.

    Raises:
        InputError: the questions (or, for training users, the outputs) are missing, or are no JSON array of samples.
    """
    location = questions_location(root, split)
    awaits_target = storage.exists(outputs_location(root, split))
    if not awaits_target and not is_new:
        raise InputError(f"no file {outputs_location(root, split)}: training users need targets; check lamp.root")
    source = f"{split}{QUESTIONS}"
    for position, sample in enumerate(_items(location, "item", "a JSON array of samples")):
        try:
            user = _read_user(task, split, is_new, sample)
        except MalformedError as error:
            yield Rejected(source=source, position=position, sample_id=_id_or_empty(sample), reason=error.reason)
        else:
            yield Sample(
                source=source,
                position=position,
                sample_id=user.queries[0].query_id,
                user=user,
                awaits_target=awaits_target,
            )


def read_targets(root: str, split: str) -> Iterator[tuple[str, str]]:
    """Yield (user_id, target) of every well-formed entry of a split's outputs; none where the file does not exist.

    Raises:
        InputError: the file is not JSON with a list "golds".
    """
    location = outputs_location(root, split)
    if not storage.exists(location):
        return
    for gold in _items(location, "golds.item", 'a JSON object with a list "golds"'):
        try:
            entry = mapping_of(gold, "gold")
            yield user_id_of(split, id_of(entry.get("id"), "id")), text_of(entry.get("output"), "output")
        except MalformedError:
            continue  # its sample is rejected because it has no target


def _read_user(task: Task, split: str, is_new: bool, sample: object) -> User:
    fields = mapping_of(sample, "sample")
    sample_id = id_of(fields.get("id"), "id")
    question = task.bare_input(text_of(fields.get("input"), "input"))
    if question is None:
        raise MalformedError(f"input lacks the instruction of {task.name} or has nothing after it")
    history = tuple(_read_record(task, record) for record in list_of(fields.get("profile"), "profile"))
    queries = (Query(query_id=sample_id, input=checked_question(task, question, "input"), target=None),)
    require_distinct(history, queries)
    return User(user_id=user_id_of(split, sample_id), is_new=is_new, history=history, queries=queries)


def _read_record(task: Task, record: object) -> Record:
    fields = mapping_of(record, "a record")
    record_id = id_of(fields.get("id"), "the id of a record")
    inputs = [_field(fields, name, record_id).strip() for name in task.record_input]
    output = _field(fields, task.record_output, record_id)
    return make_record(task, record_id, "\n".join(text for text in inputs if text), output, fields.get("date"))


def _field(fields: Mapping[str, Any], name: str, record_id: str) -> str:
    value = fields.get(name)
    if isinstance(value, str) and value.isascii():  # and needs no words for an error
        return value
    return text_of(value, f"field {name!r} of record {record_id!r}")


def _id_or_empty(sample: object) -> str:
    try:
        return id_of(mapping_of(sample, "sample").get("id"), "id")
    except MalformedError:
        return ""


def _items(location: str, prefix: str, expected: str) -> Iterator[object]:
    if not storage.exists(location):
        raise InputError(f"no file {location}; check lamp.root, lamp.train_split and lamp.new_split")
    return json_items(location, prefix, expected)
