"""Records as they are handed in: added, replaced or deleted, and joined with those that a user has already.

In an update a record without an id of its own is named by its content, so that what is handed in twice counts once.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hydra_ray.lamp.field_checks import MalformedError, text_of
from hydra_ray.rows import Record

Operation = Literal["add", "replace", "delete"]
OPERATION = "op"
"""Name of the field that says what is done with a record; by default it is added."""


def operation_of(fields: Mapping[str, Any], what: str) -> Operation:
    """Return the operation that a record's fields name.

    Raises:
        MalformedError: it is none.
    """
    given = fields.get(OPERATION)
    name = "" if given is None else text_of(given, f"the op of {what}").strip().casefold()
    for each in get_args(Operation):
        if name == each or (not name and each == "add"):
            return each
    raise MalformedError(f"the op of {what} is none of {', '.join(get_args(Operation))}")


def content_id(record: Record) -> str:
    """Return the id of a record that has none of its own: a hash of its input, output and date."""
    content = json.dumps([record.input, record.output, record.date], ensure_ascii=False)
    return f"content:{hashlib.blake2b(content.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


class HandedIn:
    """Records of one user in the order in which they are handed in."""

    def __init__(self, *, is_update: bool) -> None:
        """Begin without any.

        Args:
            is_update: whether users may be there already: then records without an id are named by their content, and
                not by their position.
        """
        self.is_update = is_update
        """Whether what is handed in tells what is new of users who may be there already."""
        self._records: dict[str, Record] = {}
        self._replaced: set[str] = set()
        self._withdrawn: dict[str, None] = {}
        self._position = 0

    def take(self, operation: Operation, record: Record) -> None:
        """Apply one operation.

        Args:
            record: its id is empty where it has none of its own; of one to delete the id alone counts, if it has any.

        Raises:
            MalformedError: the same record comes twice, or one to change has no id.
        """
        name = record.record_id or self._name_of(operation, record)
        record = Record(record_id=name, input=record.input, output=record.output, date=record.date)
        self._position += 1
        known = self._records.get(name)
        if operation == "delete":
            self._records.pop(name, None)
            self._withdrawn[name] = None
        elif known is None or operation == "replace":
            self._records[name] = record
            if operation == "replace":
                self._replaced.add(name)
        elif not self.is_update or known != record:
            raise MalformedError(f"record {name!r} comes twice")

    @property
    def history(self) -> tuple[Record, ...]:
        """Records that are added or take the place of others."""
        return tuple(self._records.values())

    @property
    def replaced(self) -> tuple[str, ...]:
        """Ids of those that take the place of others."""
        return tuple(name for name in self._records if name in self._replaced)

    @property
    def withdrawn(self) -> tuple[str, ...]:
        """Ids of records that are deleted."""
        return tuple(self._withdrawn)

    def _name_of(self, operation: Operation, record: Record) -> str:
        if self.is_update and operation != "replace":
            return content_id(record)
        if operation != "add":
            raise MalformedError(f"record {self._position} is to be changed and has no id")
        return str(self._position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """History of a user who came back."""

    history: tuple[Record, ...]
    num_added: int
    num_changed: int
    """Number of records that are replaced by others or deleted."""

    @property
    def is_changed(self) -> bool:
        """Whether it differs from the history before."""
        return self.num_added + self.num_changed > 0


def joined_history(
    before: Sequence[Record], given: Sequence[Record], replaced: Collection[str], withdrawn: Collection[str]
) -> Joined:
    """Return the records of before and the given ones, each once.

    Args:
        before: history of the user so far.
        given: records that are handed in.
        replaced: ids of those given that take the place of others; one that takes none's is added.
        withdrawn: ids of records before that are deleted; a content's id deletes every record with it.

    Raises:
        MalformedError: a record has the id of another one and is not to replace it.
    """
    withdrawn = frozenset(withdrawn)
    kept = {
        each.record_id: each
        for each in before
        if not withdrawn or withdrawn.isdisjoint((each.record_id, content_id(each)))
    }
    num_changed = len(before) - len(kept)
    contents = {content_id(each) for each in kept.values()}
    num_added = 0
    for record in given:
        known = kept.get(record.record_id)
        if known is None:
            if record.record_id in contents:
                continue  # without an id, and there already under one
            num_added += 1
        elif known == record:
            continue
        elif record.record_id not in replaced:
            raise MalformedError(
                f"record {record.record_id!r} is there already with another content; `op: replace` replaces it"
            )
        else:
            num_changed += 1
        kept[record.record_id] = record
    return Joined(history=tuple(kept.values()), num_added=num_added, num_changed=num_changed)
