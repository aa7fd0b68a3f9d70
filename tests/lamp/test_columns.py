"""Columns under a person's own names: the same users as under ours."""

from pathlib import Path

import pytest
from own_files import EVENTS, arrow_file, csv, lines, parquet, read, table, users

from hydra_ray.config import ColumnsConfig, LampConfig
from hydra_ray.errors import InputError
from hydra_ray.lamp.columns import known_names, renaming_of
from hydra_ray.lamp.users import input_fingerprint
from hydra_ray.rows import Rejected

OURS = ("user_id", "input", "output", "date", "target")
THEIRS = dict(zip(OURS, ("Customer", "Text of it", "team", "Created", "right"), strict=True))
COLUMNS = ColumnsConfig.model_validate(THEIRS)
EVENT_ROWS = [{name: row.get(name) for name in OURS} for row in EVENTS]
USER_ROWS = [
    {
        "user_id": "ann",
        "is_new": False,
        "history": [{"input": "a joke", "output": "comedy", "date": 5}, {"input": "", "output": "romance"}],
        "queries": [{"input": "which?", "target": "comedy"}],
    }
]


def theirs(value: object) -> object:
    """Rows under the person's names, at every depth."""
    if isinstance(value, dict):
        return {THEIRS.get(name, name): theirs(each) for name, each in value.items()}
    return [theirs(each) for each in value] if isinstance(value, list) else value


WRITERS = {
    "jsonl": lines,
    "parquet": lambda rows: parquet(table(rows)),
    "arrow": lambda rows: arrow_file(table(rows)),
    "csv": lambda rows: csv(table(rows)),
}


@pytest.mark.parametrize(
    ("rows", "form"),
    [*((EVENT_ROWS, form) for form in WRITERS), *((USER_ROWS, form) for form in WRITERS if form != "csv")],
)
def test_users_are_the_same_under_other_names(tags, tmp_path: Path, rows: list[dict[str, object]], form: str):
    (tmp_path / "ours").write_bytes(WRITERS[form](rows))
    (tmp_path / "theirs").write_bytes(WRITERS[form](theirs(rows)))
    found = users(tags, tmp_path / "theirs", columns=COLUMNS)
    assert found == users(tags, tmp_path / "ours")
    assert {record.input for user in found for record in user.history} >= {"a joke"}


def test_several_columns_are_one_input_a_line_each_without_empty_ones():
    renamed = renaming_of(ColumnsConfig(input=("subject", "body")))
    assert renamed is not None
    assert renamed({"subject": "Help", "body": "It fell."}) == {"input": "Help\nIt fell."}
    assert renamed({"subject": "", "body": "It fell.", "input": "other"}) == {"input": "It fell."}
    assert renamed({"body": None}) == {"input": None}
    assert renamed({"output": "x"}) == {"output": "x"}


def test_an_object_of_lists_is_renamed_as_a_list_of_objects_is():
    renamed = renaming_of(ColumnsConfig(input=("subject", "body"), output="team"))
    assert renamed is not None
    columns = {"subject": ["a", "b"], "body": ["c", ""], "team": ["x", "y"]}
    assert renamed({"history": columns}) == {"history": {"input": ["a\nc", "b"], "output": ["x", "y"]}}
    unequal = {"subject": ["a"], "team": []}
    assert renamed({"history": unequal}) == {"history": unequal}


def test_a_column_that_is_left_out_has_no_effect(tags, tmp_path: Path):
    (tmp_path / "e.csv").write_text("user_id,input,output,kind,date\nann,a,comedy,bug,yesterday\nann,b,comedy,,\n")
    assert isinstance(read(tags, tmp_path / "e.csv")[0], Rejected)
    (found,) = users(tags, tmp_path / "e.csv", columns=ColumnsConfig(kind=None, date=None))
    assert [record.date for record in found.history] == [None]


def test_with_our_own_names_rows_stay_what_they_are():
    assert renaming_of(ColumnsConfig()) is None
    assert known_names(ColumnsConfig(user_id="u", kind=None), ["u", "kind", "input"]) == {"user_id", "input"}


def test_a_header_that_names_none_of_the_columns_is_refused_by_what_to_do(tags, tmp_path: Path):
    (tmp_path / "e.csv").write_text("who,what\nann,a\n")
    with pytest.raises(InputError, match=r"other names that lamp.columns tells.*hydra-ray init FILE"):
        read(tags, tmp_path / "e.csv")


def test_only_names_that_are_given_enter_the_fingerprint(tmp_path: Path):
    (tmp_path / "e.csv").write_text("user_id,input,output\n")

    def fingerprint(**settings: object) -> list[str]:
        return input_fingerprint(
            LampConfig.model_validate({"task": "LaMP_4", "users_files": str(tmp_path), **settings})
        )

    assert fingerprint(columns={"output": "output"}) == fingerprint()
    assert fingerprint(columns={"output": "team"}) != fingerprint()
