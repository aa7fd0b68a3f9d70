"""Updates that are compacted: everybody is read as before, from one stage in place of all updates."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
from builders import run_config
from bytes_below import files_below, mentions
from killed_writes import killed_until_it_ends
from own_files import written

from hydra_ray import storage
from hydra_ray.cli import main
from hydra_ray.commands.prune import prune, unneeded_files
from hydra_ray.commands.update import update_run
from hydra_ray.errors import InputError
from hydra_ray.forget.removal import forget_users
from hydra_ray.runs.run_folder import root_of_run
from hydra_ray.runs.updates import COMPACTED, layers_of, updates_of
from hydra_ray.serving.compaction import compact_updates
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.run import personalize

# Third parties: what imports Ray and torch uses what others have deprecated.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("without_ray")]
LABELS = ("comedy", "romance", "fantasy")
EVERYBODY = [*(f"train-{n}" for n in range(6)), *(f"new-{n}" for n in range(4)), "monday-0", "tuesday-0", "nobody"]


def row(user_id: str, num_records: int, *, is_new: bool = True, day: str = "") -> dict[str, Any]:
    random = Random(f"{user_id} {day}")

    def pair() -> tuple[str, str]:
        label = random.choice(LABELS)
        return f"a {random.choice(('slow', 'quiet', 'old'))} story of {label}, number {random.random()}", label

    history = [dict(zip(("input", "output"), pair(), strict=True)) for _ in range(num_records)]
    query = dict(zip(("input", "target"), pair(), strict=True))
    return {"user_id": user_id, "is_new": is_new, "history": history, "queries": [query]}


@pytest.fixture(scope="module", params=["fake", "none"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root with a run and two updates, in which one user came back twice, and an export from before them."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = [row(name, 6, is_new=name.startswith("new")) for name in EVERYBODY[:10]]
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8}}
    lamp = {"task": "planted", "planted": None, "users_files": [written(folder / "users.jsonl", rows)]}
    none = {"generator": {"engine": "none", "model": ""}} if request.param == "none" else {}
    config = run_config(
        str(folder / "root"), lamp=lamp, users={"num_buckets": 3}, reranker=untrained, adapter=untrained, **none
    )
    plan = personalize(config)
    export_run(plan, str(folder / "export"))
    monday = [row(name, 2, day="monday") for name in ("monday-0", "new-0", "new-1", "train-0")]
    tuesday = [row(name, 2, day="tuesday") for name in ("tuesday-0", "new-0", "monday-0")]
    for day, people in (("monday", monday), ("tuesday", tuesday)):
        update_run(plan.run_folder, [written(folder / f"{day}.jsonl", people)])
    return folder, config.run


@pytest.fixture
def run(made: tuple[Path, str], tmp_path: Path) -> str:
    """The run's folder in a root of the test's own."""
    folder, name = made
    shutil.copytree(folder / "root", tmp_path / "root")
    return str(tmp_path / "root" / "runs" / name)


@pytest.fixture
def export(made: tuple[Path, str]) -> Path:
    return made[0] / "export"


def plan_of(run: str) -> Plan:
    return plan_recorded(run)


def exported(run: str, folder: Path) -> dict[str, bytes]:
    """The tables of users of an export, to the byte."""
    export_run(plan_of(run), str(folder))
    return {name: path.read_bytes() for name, path in files_below(str(folder)).items() if name.endswith(".parquet")}


def known(export: Path, run: str) -> dict[str, Any]:
    """What a server knows of everybody after a pull."""
    scorer = load_scorer(export)
    scorer.pull(run)
    return {name: plain(scorer, name) for name in EVERYBODY}


def plain(scorer: ServedScorer, name: str) -> Any:
    found = scorer._known.of(name)
    heads = {each: table.to_pylist() for each, table in found.heads.items()}
    return found.user, heads, None if found.code_R is None else found.code_R.tolist()


def compacted_tables(run: str) -> dict[str, bytes]:
    found = files_below(f"{root_of_run(run)}/stages/{COMPACTED}")
    return {name: path.read_bytes() for name, path in found.items() if name.endswith(".parquet")}


def layers(run: str) -> list[tuple[tuple[str, ...], bool]]:
    """The updates that are read, newest first, and whether they are read compacted."""
    root, name = root_of_run(run), run.rpartition("/")[2]
    return [(each.updates, COMPACTED in each.stages) for each in layers_of(root, name, updates_of(root, name))]


def test_everybody_is_read_as_before(run: str, export: Path, tmp_path: Path):
    tables, people = exported(run, tmp_path / "before"), known(export, run)
    assert len(people["new-0"][0].history) == 10
    assert compact_updates(run) == 2
    assert layers(run) == [(("test+monday", "test+tuesday"), True)]
    assert exported(run, tmp_path / "after") == tables
    assert known(export, run) == people


def test_no_update_is_read_once_it_is_compacted(run: str, export: Path, monkeypatch: pytest.MonkeyPatch):
    compact_updates(run)
    stages, read = f"{root_of_run(run)}/stages/", list[str]()
    whole = storage.read_part

    def read_part(location: str, *arguments: Any) -> Any:
        read.append(location)
        return whole(location, *arguments)

    monkeypatch.setattr(storage, "read_part", read_part)
    known(export, run)
    assert {location.removeprefix(stages).partition("/")[0] for location in read if location.startswith(stages)} == {
        COMPACTED
    }


def test_a_later_update_is_read_beside_what_is_compacted_and_compacted_with_it(run: str, export: Path, tmp_path: Path):
    compact_updates(run)
    wednesday = written(tmp_path / "wednesday.jsonl", [row("new-0", 1, day="wednesday"), row("train-1", 1, day="w")])
    update_run(run, [wednesday])
    assert layers(run) == [(("test+wednesday",), False), (("test+monday", "test+tuesday"), True)]
    people = known(export, run)
    assert len(people["new-0"][0].history) == 11
    assert compact_updates(run) == 1
    assert layers(run) == [(("test+monday", "test+tuesday", "test+wednesday"), True)]
    assert known(export, run) == people


def test_what_was_compacted_again_is_pruned_and_nothing_else(run: str, export: Path, tmp_path: Path):
    compact_updates(run)
    first = files_below(f"{root_of_run(run)}/stages/{COMPACTED}")
    assert not [each for each in unneeded_files(root_of_run(run)) if COMPACTED in each.location]
    update_run(run, [written(tmp_path / "wednesday.jsonl", [row("new-0", 1, day="wednesday")])])
    compact_updates(run)
    people = known(export, run)
    removed = [each.location for each in prune(root_of_run(run))]
    assert sorted(removed) == sorted(str(path) for path in first.values())
    assert known(export, run) == people


def test_an_update_compacts_once_there_are_enough(run: str, tmp_path: Path):
    rows = [row("new-2", 1, day="wednesday")]
    update_run(run, [written(tmp_path / "wednesday.jsonl", rows)], overrides=["storage.compact_after=3"])
    assert layers(run) == [(("test+monday", "test+tuesday", "test+wednesday"), True)]
    rows = [row("new-2", 1, day="thursday")]
    update_run(run, [written(tmp_path / "thursday.jsonl", rows)], overrides=["storage.compact_after=2"])
    assert [is_compacted for _, is_compacted in layers(run)] == [False, True]


def test_a_killed_compaction_goes_on_and_is_not_read_before_it_is_whole(
    run: str, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(root_of_run(run), tmp_path / "other" / "root")
    other = f"{tmp_path}/other/root/runs/test"
    compact_updates(other)
    people, before = known(export, run), layers(run)

    def compacted() -> int:
        assert layers(run) == before
        return compact_updates(run)

    number, num_kills = killed_until_it_ends(monkeypatch, compacted, lambda killed: 1 + killed // 2)
    assert (number, num_kills > 3) == (2, True)
    assert known(export, run) == people
    assert compacted_tables(run) == compacted_tables(other)


def test_whoever_is_forgotten_is_in_nothing_that_was_compacted(run: str, export: Path, tmp_path: Path):
    people = known(export, run)
    compact_updates(run)
    assert mentions(f"{root_of_run(run)}/stages/{COMPACTED}", "monday-0")
    forget_users(root_of_run(run), ["monday-0", "new-0"])
    assert not mentions(root_of_run(run), "monday-0", "new-0")
    left = known(export, run)
    assert {name for name in EVERYBODY if left[name] != people[name]} == {"monday-0", "new-0"}
    assert not mentions(str(tmp_path / "root" / "stages"), "monday-0")


def test_the_command_says_what_it_did(run: str, capsys: pytest.CaptureFixture[str]):
    for told in ("compacted 2 updates\n", "nothing to compact: no update has come since\n"):
        assert main(["compact", run]) == 0
        assert capsys.readouterr().out == told


def test_an_update_is_no_run_whose_updates_are_compacted(run: str, tmp_path: Path):
    with pytest.raises(InputError, match="is an update of the run test: give that run instead"):
        compact_updates(f"{run}+monday")
    with pytest.raises(InputError, match="no run at"):
        compact_updates(str(tmp_path / "runs" / "other"))
