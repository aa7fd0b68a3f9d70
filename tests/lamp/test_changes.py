"""Records as they are handed in, and joined with those that a user has."""

from dataclasses import replace

import pytest

from hydra_ray.lamp.changes import HandedIn, Operation, content_id, joined_history, operation_of
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.rows import Record


def record(name: str, text: str = "a", date: int | None = None) -> Record:
    return Record(record_id=name, input=text, output="comedy", date=date)


def handed(*given: tuple[Operation, Record], is_update: bool = True) -> HandedIn:
    found = HandedIn(is_update=is_update)
    for operation, each in given:
        found.take(operation, each)
    return found


def joined(before: list[Record], *given: tuple[Operation, Record]) -> list[Record]:
    found = handed(*given)
    return list(joined_history(before, found.history, found.replaced, found.withdrawn).history)


A, B, C = record("a", "1"), record("b", "2"), record("c", "3")


def test_in_an_update_a_record_without_an_id_is_named_by_its_content():
    (found,) = handed(("add", record("", "x")), ("add", record("", "x"))).history
    assert found.record_id == content_id(found) != content_id(record("", "x", date=1))
    assert [each.record_id for each in handed(("add", record("")), ("add", record("")), is_update=False).history] == [
        "0",
        "1",
    ]


def test_an_id_that_comes_twice_is_refused_unless_an_update_gives_the_same_twice():
    assert handed(("add", A), ("add", A)).history == (A,)
    for other, is_update in ((A, False), (replace(A, input="other"), True)):
        with pytest.raises(MalformedError, match="record 'a' comes twice"):
            handed(("add", A), ("add", other), is_update=is_update)


def test_within_a_file_operations_follow_each_other():
    other = replace(A, input="other")
    found = handed(
        ("add", A), ("replace", other), ("add", B), ("delete", record("b")), ("delete", record("c")), ("add", C)
    )
    assert found.history == (other, C)
    assert (found.replaced, found.withdrawn) == (("a",), ("b", "c"))


def test_a_base_runs_file_may_hold_operations_on_named_records():
    assert handed(("add", A), ("delete", record("a")), ("add", B), is_update=False).history == (B,)
    with pytest.raises(MalformedError, match="no id"):
        handed(("delete", record("")), is_update=False)


def test_new_records_come_after_those_that_are_there():
    assert joined([A, B], ("add", C)) == [A, B, C]


def test_what_is_handed_in_again_counts_once():
    unnamed = record("", "2")
    assert joined([A, B], ("add", A), ("add", unnamed)) == [A, B]
    once = joined([A], ("add", record("", "new")))
    assert joined(once, ("add", record("", "new"))) == once


def test_the_same_content_under_another_id_is_another_record():
    assert joined([A], ("add", replace(A, record_id="z"))) == [A, replace(A, record_id="z")]


def test_another_content_under_the_same_id_must_say_that_it_replaces():
    with pytest.raises(MalformedError, match="op: replace"):
        joined([A, B], ("add", replace(A, input="other")))
    assert joined([A, B], ("replace", replace(A, input="other"))) == [replace(A, input="other"), B]
    assert joined([A], ("replace", B)) == [A, B]


def test_a_record_is_deleted_by_its_id_or_its_content():
    assert joined([A, B, C], ("delete", record("b"))) == [A, C]
    assert joined([A, B, C], ("delete", record("", "2"))) == [A, C]
    assert joined([A], ("delete", record("gone"))) == [A]


def test_a_deleted_record_may_come_again_at_the_end():
    assert joined([A, B], ("delete", record("a")), ("add", A)) == [B, A]


def test_after_any_split_into_updates_the_history_is_that_of_one():
    everything = [record("", str(n), date=n) for n in range(6)]
    whole = joined([], *(("add", each) for each in everything))
    for cut in range(7):
        first = joined([], *(("add", each) for each in everything[:cut]))
        assert joined(first, *(("add", each) for each in everything[max(cut - 1, 0) :])) == whole


def test_changes_are_counted():
    found = handed(("add", C), ("delete", record("a")), ("replace", replace(B, input="other")))
    counted = joined_history([A, B], found.history, found.replaced, found.withdrawn)
    assert (counted.num_added, counted.num_changed, counted.is_changed) == (1, 2, True)
    found = handed(("add", B), ("delete", record("gone")), ("replace", A))
    assert not joined_history([A, B], found.history, found.replaced, found.withdrawn).is_changed


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "add"), ("", "add"), (" Delete", "delete"), (b"replace", "replace")]
)
def test_operations_are_read_as_people_write_them(given: object, expected: str):
    assert operation_of({"op": given}, "a row") == expected


@pytest.mark.parametrize("given", ["remove", True, 1])
def test_other_operations_are_refused(given: object):
    with pytest.raises(MalformedError, match="the op of a row is"):
        operation_of({"op": given}, "a row")
