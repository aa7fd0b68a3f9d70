"""Users and queries whose ids look alike when they are joined, from a file of events to forgetting."""

import json
import shutil
from pathlib import Path

import in_process
import pytest
from builders import run_config

from hydra_ray import storage
from hydra_ray.forget.removal import forget_users
from hydra_ray.rows import Prediction, arrow_schema, from_table
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")

PAIRS = {("ann", "zq/qq"): "ann/zq/qq", ("ann/zq", "qq"): "ann%2Fzq/qq", ("bob", "q"): "bob/q"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run on events in CSV: three new users, and some who teach."""
    tmp_path = tmp_path_factory.mktemp("alike")
    labels = ("comedy", "romance", "fantasy", "violence")
    lines = ["user_id,id,input,output,target,is_new"]
    for user_id, query_id in [*PAIRS, *((f"taught{n}", "q") for n in range(4))]:
        is_new = str((user_id, query_id) in PAIRS).lower()
        lines += (f"{user_id},r{n},a story of {labels[n % 4]} {n},{labels[n % 4]},,{is_new}" for n in range(6))
        lines.append(f"{user_id},{query_id},what now,,comedy,{is_new}")
    (tmp_path / "events.csv").write_text("\n".join(lines))
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8}}
    lamp = {"planted": None, "users_files": str(tmp_path / "events.csv")}
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        config = run_config(str(tmp_path / "root"), lamp=lamp, reranker=untrained, adapter=untrained)
        return personalize(config)


@pytest.fixture
def root(finished: Plan, tmp_path: Path) -> str:
    """A copy of the run's root, which a test may change."""
    return str(shutil.copytree(finished.config.storage.root, tmp_path / "root"))


@pytest.fixture
def folders(finished: Plan, root: str) -> list[str]:
    """The folders in the copy that hold predictions: the run's, and its stage's."""
    return [each.replace(finished.config.storage.root, root) for each in (finished.run_folder, finished.answers.folder)]


def predicted(folder: str) -> tuple[dict[str, str], dict[tuple[str, str], tuple[str, str]]]:
    """The predictions in a folder: of the official file by id, and of the table by user and query."""
    official = json.loads(Path(folder, "predictions.json").read_text())
    assert official.keys() >= {"task", "golds"}
    golds = {gold["id"]: gold["output"] for gold in official["golds"]}
    assert len(golds) == len(official["golds"])
    table = storage.read_part(f"{folder}/predictions.parquet", arrow_schema(Prediction))
    rows = {(row.user_id, row.query_id): (row.prediction_id, row.answer) for row in from_table(table, Prediction)}
    return golds, rows


@pytest.mark.parametrize("gone", ["ann", "ann/zq"])
def test_forgetting_one_user_removes_that_users_prediction_and_no_other(root: str, folders: list[str], gone: str):
    for folder in folders:
        golds, rows = predicted(folder)
        assert {pair: name for pair, (name, _) in rows.items()} == PAIRS
        assert dict(rows.values()) == golds
    before = rows
    (outcome,) = forget_users(root, [gone])
    assert outcome.receipt is not None
    removed = {each.path.rpartition("/")[2]: each.count for each in outcome.receipt.removed}
    assert (removed["predictions.json"], removed["predictions.parquet"]) == (1, 1)
    for folder in folders:
        golds, rows = predicted(folder)
        assert rows == {pair: row for pair, row in before.items() if pair[0] != gone}
        assert golds == dict(rows.values())
    assert not forget_users(root, [gone])[0].is_removed_now


def list_no_digests(folder: str) -> None:
    """Leave of a folder's listing what earlier versions wrote."""
    Path(folder, "files.json").unlink(missing_ok=True)
    manifest = f"{folder}/manifest.json"
    if storage.exists(manifest):
        listed = storage.read_json(manifest)
        storage.write_json(manifest, {name: value for name, value in listed.items() if name != "files"})


def test_a_run_of_an_earlier_version_without_the_table_is_forgotten_too(root: str, folders: list[str]):
    for folder in folders:
        Path(folder, "predictions.parquet").unlink()
        content = Path(folder, "predictions.json").read_text()
        Path(folder, "predictions.json").write_text(content.replace("%2F", "/"))
        list_no_digests(folder)
    (outcome,) = forget_users(root, ["ann/zq"])
    assert outcome.is_removed_now
    for folder in folders:
        golds = json.loads(Path(folder, "predictions.json").read_text())["golds"]
        assert sorted(gold["id"] for gold in golds) == ["ann/zq/qq", "bob/q"]
