import json
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hydra_ray.errors import InputError
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.lamp.user_files import read_user_files
from hydra_ray.rows import Query, Record, Rejected, User

ROW = {
    "user_id": "ann",
    "is_new": False,
    "history": [
        {"input": "a joke", "output": "Comedy", "date": "1970-01-02"},
        {"id": 7, "input": "", "output": "romance"},
    ],
    "queries": [{"input": "which?", "target": "dark comedy"}],
}
ANN = User(
    user_id="ann",
    is_new=False,
    history=(
        Record(record_id="0", input="a joke", output="comedy", date=86400),
        Record(record_id="7", input="", output="romance", date=None),
    ),
    queries=(Query(query_id="0", input="which?", target="dark comedy"),),
)


def _read(task, path: Path):
    with TemporaryDirectory() as folder:
        return list(read_user_files(task, input_files([str(path)]), Path(folder)))


def test_jsonl_rows_become_users_and_blank_lines_nothing(tags, tmp_path):
    path = tmp_path / "users.jsonl"
    new = {"user_id": 2, "history": [], "queries": [{"input": "which?"}]}
    path.write_text(f"{json.dumps(ROW)}\n\n{json.dumps(new)}\n")
    first, second = _read(tags, path)
    assert first == Sample(source=str(path), position=0, sample_id="ann", user=ANN, awaits_target=False)
    assert second.position == 2
    assert second.user == User(
        user_id="2", is_new=True, history=(), queries=(Query(query_id="0", input="which?", target=None),)
    )


def test_parquet_rows_become_the_same_users(tags, tmp_path):
    row = {
        **ROW,
        "history": [
            {"id": None, "input": "a joke", "output": "Comedy", "date": date(1970, 1, 2)},
            {"id": "7", "input": "", "output": "romance", "date": None},
        ],
    }
    path = tmp_path / "users.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "user_id": f"ann{n}"} for n in range(200)]), path)
    read = _read(tags, path)
    assert [sample.position for sample in read] == list(range(200))
    assert [sample.user.user_id for sample in read] == [f"ann{n}" for n in range(200)]
    assert {(sample.user.history, sample.user.queries) for sample in read} == {(ANN.history, ANN.queries)}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        (json.dumps({**ROW, "user_id": None}), "user_id is missing"),
        (json.dumps({**ROW, "is_new": "no"}), "is_new"),
        (json.dumps({**ROW, "history": None}), "history is missing"),
        (json.dumps({**ROW, "queries": None}), "queries is missing"),
        (json.dumps({**ROW, "history": [{"input": "x"}]}), "output of record 0 is missing"),
        (json.dumps({**ROW, "history": [{"input": "x", "output": "horror"}]}), "not a label"),
        (json.dumps({**ROW, "history": [ROW["history"][1]] * 2}), "record '7' comes twice"),
        (json.dumps({**ROW, "queries": [{"input": "x", "target": "horror"}]}), "not a label"),
        (json.dumps({**ROW, "queries": [{"input": "x"}]}), "no target"),
        (json.dumps({**ROW, "queries": [{"input": " ", "target": "comedy"}]}), "is empty"),
        (json.dumps({**ROW, "history": [{"input": "\ud800", "output": "comedy"}]}), "Unicode"),
    ],
)
def test_a_malformed_row_is_rejected_with_its_reason(tags, tmp_path, line, reason):
    path = tmp_path / "users.jsonl"
    path.write_text(f"{line}\n{json.dumps(ROW)}\n")
    rejected, sample = _read(tags, path)
    assert isinstance(rejected, Rejected)
    assert rejected.position == 0
    assert reason in rejected.reason
    assert isinstance(sample, Sample)


def test_queries_need_their_tasks_options_and_documents_need_no_label(tmp_path):
    path = tmp_path / "users.jsonl"
    history = [{"input": "an abstract", "output": "A Title"}]
    inputs = ['"T"\n[1]: "a" [2]: "b"', '"T" [1]: "a"']
    rows = [{"user_id": n, "history": history, "queries": [{"input": each}]} for n, each in enumerate(inputs)]
    path.write_text("\n".join(map(json.dumps, rows)))
    sample, rejected = _read(TASKS["LaMP_1"], path)
    assert sample.user.history == (Record(record_id="0", input="an abstract", output="A Title"),)
    assert "lacks the options of LaMP_1" in rejected.reason


@pytest.mark.parametrize("name", ["missing.jsonl", "users.csv", "users.parquet"])
def test_a_file_that_cannot_be_users_is_an_error_that_names_it(tags, tmp_path, name):
    (tmp_path / "users.csv").write_text("user_id\n1\n")
    (tmp_path / "users.parquet").write_text("<html>")
    with pytest.raises(InputError, match=name):
        _read(tags, tmp_path / name)
