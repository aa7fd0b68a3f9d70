"""Updates of a finished run: the whole path with the fake generator, in this process instead of Ray's."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from builders import run_config
from killed_writes import killed_until_it_ends

import hydra_ray
from hydra_ray.api import load_run
from hydra_ray.cli import main
from hydra_ray.commands.status import status_lines
from hydra_ray.commands.update import update_config, update_run
from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.lamp.judgements import JUDGEMENTS
from hydra_ray.retrieve.earlier import Earlier
from hydra_ray.rows import (
    AnsweredUser,
    DraftedUser,
    JudgingUser,
    ProbedQuery,
    ProbedUser,
    User,
    arrow_schema,
    from_table,
)
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.runs.updates import updates_of
from hydra_ray.scorer.heads.store import heads_table
from hydra_ray.seeds import seed_of
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import load_scorer
from hydra_ray.stages.plan import Plan, plan_recorded
from hydra_ray.stages.run import personalize
from hydra_ray.stages.update_summary import update_summary
from hydra_ray.storage import content_digest, read_part

pytestmark = [
    pytest.mark.ray,
    # Third parties: what imports Ray and torch uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]

TRAINING = [f"train-{n}" for n in range(8)]
NEW = [f"new-{n}" for n in range(4)]
ADDED = ["june-0", "june-1", "june-2"]
NUM_FOLDS = 2
QUIET = next(each for each in [*NEW, *TRAINING] if seed_of(0, "fold", each) % NUM_FOLDS == 0)
"""A user of whom only queries are new, and whose heads of fold 0 were fitted as a new user's."""
BACK = next(each for each in NEW if each != QUIET)
"""A user who comes back with a record."""
ACTIVE = [*ADDED, QUIET, BACK]
LABELS = ("comedy", "romance", "fantasy", "mystery")
NUM_BUCKETS = 8
UNTRAINED = {**run_config().reranker.base.model_dump(), "num_epochs": 0, "width": 0}


def rows_of(ids: Iterable[str], *, is_new: bool = True, is_text: bool = False) -> list[dict[str, Any]]:
    """Users in the own format, with targets."""

    def pair(random: Random) -> tuple[str, str]:
        first, second = random.sample(LABELS, 2)
        words = " ".join(random.choice(("old", "slow", "summer", "night", "city")) for _ in range(4))
        return f"a story of {first} and {second}, {words}", f"The {words} of {first}" if is_text else first

    rows: list[dict[str, Any]] = []
    for user_id in ids:
        random = Random(user_id)
        history = [dict(zip(("input", "output"), pair(random), strict=True)) for _ in range(7)]
        query = dict(zip(("input", "target"), pair(random), strict=True))
        rows.append({"user_id": user_id, "is_new": is_new, "history": history, "queries": [query]})
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def config_of(folder: Path, rows: Iterable[dict[str, Any]], task: str, **sections: Any) -> RunConfig:
    """A run under a root below `folder` on its own users."""
    users = {"num_buckets": NUM_BUCKETS, **sections.pop("users", {})}
    lamp = {"task": task, "planted": None, "users_files": [write_rows(folder / "users.jsonl", rows)]}
    scorer = {"base": UNTRAINED, "heads": {"kinds": ["lowrank"], "ranks": [64]}}
    # Own heads that are fitted to all records would take the place of the adapter's codes, which are compared here.
    adapter = {**scorer, "has_own_heads": False}
    return run_config(str(folder / "root"), lamp=lamp, users=users, reranker=scorer, adapter=adapter, **sections)


@pytest.fixture(scope="module", autouse=True)
def wide_priors(without_ray: pytest.MonkeyPatch) -> None:
    """Few users teach that own heads are worth nothing; so there is something to compare all the same."""
    without_ray.setattr("hydra_ray.scorer.linear.prior.VARIANCE_FACTORS", (1.0,))
    without_ray.setattr("hydra_ray.scorer.linear.prior.START_VARIANCES", (0.1,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run with a gate, cross-fitted."""
    folder = tmp_path_factory.mktemp("finished")
    return personalize(config_of(folder, rows_of([*TRAINING, *NEW]), "planted", users={"num_folds": NUM_FOLDS}))


def monday() -> list[dict[str, Any]]:
    """What is handed in first: new users, and what is new of others."""
    quiet, back = rows_of([f"{QUIET} again", f"{BACK} again"])
    return [
        *rows_of(ADDED),
        {"user_id": QUIET, "queries": quiet["queries"]},
        {"user_id": BACK, "history": back["history"][:1], "queries": back["queries"]},
    ]


def tuesday() -> list[dict[str, Any]]:
    """What is handed in next."""
    (new,) = rows_of(["other"])
    (june, *_) = rows_of(ADDED)
    named = {**new["history"][0], "id": "named"}
    return [
        {"user_id": BACK, "history": [named], "queries": new["queries"]},
        {"user_id": ADDED[0], "history": [june["history"][0], {**june["history"][1], "op": "delete"}]},
        {"user_id": ADDED[1], "history": rows_of(ADDED)[1]["history"]},
    ]


@pytest.fixture(scope="module")
def before(finished: Plan) -> dict[Path, bytes]:
    """Every file under the root before an update."""
    return contents(finished)


def copied(plan: Plan, folder: Path) -> str:
    """The folder of the finished run in a copy of its whole root."""
    shutil.copytree(plan.config.storage.root, folder / "root")
    return f"{folder}/root/runs/{plan.config.run}"


@pytest.fixture(scope="module")
def untouched(finished: Plan, before: dict[Path, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of the finished run before any update."""
    assert before
    return copied(finished, tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="module")
def june(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first file that is handed in."""
    return write_rows(tmp_path_factory.mktemp("june") / "june.jsonl", monday())


@pytest.fixture(scope="module")
def added(finished: Plan, untouched: str, june: str) -> Plan:
    """The first update."""
    assert untouched
    assert main(["update", finished.run_folder, "--users", june]) == 0
    plan = personalize(update_config(finished.run_folder, [june]))
    assert plan.is_complete()
    return plan


@pytest.fixture(scope="module")
def of_june(added: Plan, finished: Plan, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of the finished run with the first update alone."""
    assert added
    return copied(finished, tmp_path_factory.mktemp("june"))


@pytest.fixture(scope="module")
def july(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The second file that is handed in."""
    return write_rows(tmp_path_factory.mktemp("july") / "july.jsonl", tuesday())


@pytest.fixture(scope="module")
def later(of_june: str, july: str, finished: Plan) -> Plan:
    """The second update."""
    assert of_june
    return update_run(finished.run_folder, [july]).plan


def contents(plan: Plan) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(plan.config.storage.root).rglob("*") if path.is_file()}


def buckets_of(plan: Plan, ids: Iterable[str]) -> set[int]:
    return {bucket_of(each, NUM_BUCKETS, bucket_key_of(plan.config)) for each in ids}


def answered(plan: Plan) -> dict[str, AnsweredUser]:
    parts = [read_part(location, arrow_schema(AnsweredUser)) for location in plan.answers.parts("answers")]
    return {row.user_id: row for part in parts for row in from_table(part, AnsweredUser)}


def users_of(plan: Plan) -> dict[str, User]:
    parts = [read_part(location, arrow_schema(User)) for location in plan.users.parts("users")]
    return {user.user_id: user for part in parts for user in from_table(part, User)}


def rows_in(plan: Plan, stage: str, row_type: type, table: str = "") -> dict[str, Any]:
    parts = [read_part(location, arrow_schema(row_type)) for location in plan.stage(stage).parts(table or stage)]
    return {row.user_id: row for part in parts for row in from_table(part, row_type)}


def pseudo_of(probed: ProbedUser) -> list[ProbedQuery]:
    return [query for query in probed.queries if query.is_pseudo]


def heads_of(stage: Stage) -> dict[str, dict[str, Any]]:
    rows = [row for location in stage.parts(heads_table(0)) for row in read_part(location).to_pylist()]
    return {row["user_id"]: row for row in rows}


def test_every_active_user_is_answered_by_every_system_and_predicted(added: Plan, finished: Plan):
    found = answered(added)
    assert set(found) == set(ACTIVE)
    systems = [answer.system for row in answered(finished).values() for answer in row.queries[0].answers]
    for row in found.values():
        assert {answer.system for answer in row.queries[0].answers} == set(systems)
        assert row.reranker_head
        assert row.adapter_head
    predictions = json.loads(Path(added.run_folder, "predictions.json").read_text())
    assert {gold["id"] for gold in predictions["golds"]} == {f"{each}/0" for each in ACTIVE}


def test_the_finished_run_is_untouched_byte_for_byte(added: Plan, finished: Plan, before: dict[Path, bytes]):
    after = contents(finished)
    assert {path: after.get(path) for path in before} == before
    assert Path(added.run_folder) != Path(finished.run_folder)


def test_only_buckets_of_active_users_are_written(added: Plan, finished: Plan, before: dict[Path, bytes]):
    expected = buckets_of(finished, ACTIVE)
    assert len(expected) < NUM_BUCKETS
    written = [path for path in contents(finished) if path not in before]
    numbers = {
        int(part.removeprefix("bucket-").removesuffix(".parquet"))
        for path in written
        for part in path.parts
        if part.startswith("bucket-")
    }
    assert numbers == expected


def test_a_head_is_in_the_same_bucket_of_both_runs_and_names_base_and_prior(added: Plan, finished: Plan):
    for mine, theirs in ((added.reranker, finished.reranker), (added.adapter, finished.adapter)):
        assert set(heads_of(mine.heads)) == set(ACTIVE)
        metadata = [
            read_part(stage.part(heads_table(0), bucket)).schema.metadata
            for stage, bucket in ((mine.heads, mine.heads.buckets[0]), (theirs.heads, 0))
        ]
        for key in (b"hydra_ray.base", b"hydra_ray.population"):
            assert metadata[0][key] == metadata[1][key]


def test_a_user_of_whom_only_queries_are_new_keeps_the_heads(added: Plan, finished: Plan):
    for mine, theirs in ((added.reranker, finished.reranker), (added.adapter, finished.adapter)):
        found, expected = heads_of(mine.heads)[QUIET], heads_of(theirs.heads)[QUIET]
        assert found["num_groups"] == expected["num_groups"] > 0
        np.testing.assert_allclose(found["code"], expected["code"], atol=1e-6)


def test_users_come_back_with_their_histories(added: Plan, later: Plan):
    assert [len(users_of(added)[each].history) for each in (QUIET, BACK, ADDED[0])] == [7, 8, 7]
    found = users_of(later)
    assert set(found) == {BACK, ADDED[0]}
    assert [len(found[each].history) for each in (BACK, ADDED[0])] == [9, 6]
    assert found[BACK].history[-1].record_id == "named"
    assert set(heads_of(later.adapter.heads)) == {BACK, ADDED[0]}
    assert {name: len(row.queries) for name, row in answered(later).items()} == {BACK: 1, ADDED[0]: 0}


def test_pseudo_queries_that_were_asked_stay_as_they_were(added: Plan, later: Plan, finished: Plan):
    for mine, theirs, user_id in ((added, finished, QUIET), (added, finished, BACK), (later, added, BACK)):
        for stage, row_type in (("probes", ProbedUser), ("drafts", DraftedUser)):
            now, before = (
                {each.query_id: each for each in rows_in(plan, stage, row_type)[user_id].queries if each.is_pseudo}
                for plan in (mine, theirs)
            )
            num_new = len(users_of(mine)[user_id].history) - len(users_of(theirs)[user_id].history)
            assert len(now.keys() - before.keys()) <= num_new
            kept = now.keys() & before.keys()
            assert kept
            assert {each: now[each] for each in kept} == {each: before[each] for each in kept}


def test_of_a_user_of_whom_only_queries_are_new_only_these_are_asked(added: Plan, finished: Plan):
    probed = rows_in(added, "probes", ProbedUser)[QUIET]
    assert pseudo_of(probed) == pseudo_of(rows_in(finished, "probes", ProbedUser)[QUIET])
    assert len(probed.queries) > len(pseudo_of(probed))


def test_after_updates_heads_are_those_of_one_fit_on_the_whole_history(
    later: Plan, untouched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The same pseudo-queries, as they were asked in the course of the updates.
    probed, drafted = (
        rows_in(later, stage, row_type)[BACK] for stage, row_type in (("probes", ProbedUser), ("drafts", DraftedUser))
    )

    def as_asked(_plan: Plan, _bucket: int, users: Sequence[User], *, has_drafts: bool = False) -> dict[str, Earlier]:
        return {
            user.user_id: Earlier(user=user, before=user, probed=probed, drafted=drafted if has_drafts else None)
            for user in users
        }

    for stage in ("probes", "drafts"):
        monkeypatch.setattr(f"hydra_ray.stages.{stage}.earlier_rows", as_asked)
    history = [*monday()[-1]["history"], *tuesday()[0]["history"]]
    whole = write_rows(tmp_path / "whole.jsonl", [{**tuesday()[0], "history": history}])
    plan = update_run(untouched, [whole]).plan
    assert users_of(plan)[BACK] == users_of(later)[BACK]
    for mine, theirs in ((plan.reranker, later.reranker), (plan.adapter, later.adapter)):
        found, expected = heads_of(mine.heads)[BACK], heads_of(theirs.heads)[BACK]
        assert found["num_groups"] == expected["num_groups"]
        np.testing.assert_allclose(found["code"], expected["code"], atol=1e-6)
    assert np.abs(heads_of(later.adapter.heads)[BACK]["code"]).max() > 0.01


def tables_below(root: str) -> dict[str, str]:
    """The digest of every table of a root's stages, without the time that making it took."""
    stages = Path(root, "stages")
    return {str(path.relative_to(stages)): content_digest(str(path)) for path in stages.rglob("bucket-*.parquet")}


def test_killed_again_and_again_an_update_ends_alike(
    later: Plan, of_june: str, july: str, monkeypatch: pytest.MonkeyPatch
):
    plan, num_kills = killed_until_it_ends(monkeypatch, lambda: update_run(of_june, [july]).plan, lambda _: 4)
    assert num_kills > 5
    assert tables_below(plan.config.storage.root) == tables_below(later.config.storage.root)
    ended, expected = (Path(each.run_folder, "predictions.json").read_bytes() for each in (plan, later))
    assert ended == expected


def test_another_update_first_finishes_one_that_was_killed(
    untouched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_folder = shutil.copytree(Path(untouched).parents[1], tmp_path / "root") / "runs" / "test"
    first, second = (
        write_rows(tmp_path / f"{name}.jsonl", [{"user_id": name, "queries": [{"input": "a story of comedy"}]}])
        for name in ("first", "second")
    )

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hydra_ray.stages.run.publish", kill)
        with pytest.raises(KeyboardInterrupt):
            update_run(str(run_folder), [first])
    Path(first).unlink()
    plan = update_run(str(run_folder), [second]).plan
    assert [(each.run, each.is_finished) for each in updates_of(f"{tmp_path}/root", "test")][-2:] == [
        ("test+first", True),
        ("test+second", True),
    ]
    assert plan.config.update is not None
    assert plan.config.update.follows == ("test+first",)


def test_a_deleted_record_is_in_no_answer_any_more(added: Plan, later: Plan):
    gone = {each.record_id for each in users_of(added)[ADDED[0]].history}
    gone -= {each.record_id for each in users_of(later)[ADDED[0]].history}
    (name,) = gone
    probed = rows_in(later, "probes", ProbedUser)[ADDED[0]]
    drafted = rows_in(later, "drafts", DraftedUser)[ADDED[0]]
    shown = {each.record_id for query in probed.queries for each in query.probes}
    shown |= {each for query in drafted.queries for prompt in query.prompts for each in prompt.record_ids}
    assert name not in shown
    assert f"record:{name}" not in {query.query_id for query in probed.queries}


def test_an_export_has_of_each_user_what_is_newest(later: Plan, added: Plan, finished: Plan, tmp_path: Path):
    exported = export_run(plan_recorded(finished.run_folder), str(tmp_path / "export"))
    line = (finished, added, later)
    for name in ("reranker", "adapter"):
        newest = {key: row for plan in line for key, row in heads_of(getattr(plan, name).heads).items()}
        assert heads_of(exported.stage(f"{name}.heads")) == newest
    scorer = load_scorer(exported.folder)
    histories = {key: user.history for plan in line for key, user in users_of(plan).items()}
    assert {key: scorer.history_of(key) for key in histories} == histories


@pytest.fixture(scope="module")
def asked(later: Plan, finished: Plan, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Answers to queries of a user who came back, of one of the finished run and of a stranger."""
    folder = tmp_path_factory.mktemp("queries")
    lines = [f"{name},q{n},a story of comedy and {LABELS[n]}" for n, name in enumerate((BACK, NEW[-1], "stranger"), 1)]
    (folder / "queries.csv").write_text("\n".join(["user_id,query_id,input", *lines]))
    words = ["predict", finished.run_folder, "--queries", f"{folder}/queries.csv", "--output", f"{folder}/out.parquet"]
    before = contents(finished)
    assert main(words) == 0
    found = (folder / "out.parquet").read_bytes()
    rest = {path: content for path, content in contents(finished).items() if path in before}
    assert rest == before
    assert main(words) == 0
    assert (folder / "out.parquet").read_bytes() == found
    return read_part(f"{folder}/out.parquet").to_pylist()


def test_queries_are_answered_by_what_is_newest_and_nothing_follows(asked: list[dict[str, Any]], finished: Plan):
    assert {(row["user_id"], row["query_id"]) for row in asked} == {(BACK, "q1"), (NEW[-1], "q2"), ("stranger", "q3")}
    assert all((row["answer"] is None) != (row["error"] is None) and row["system"] for row in asked)
    shown = {row["user_id"]: row["record_ids"] for row in asked}
    assert not shown["stranger"]
    assert len(shown[BACK]) == len(shown[NEW[-1]]) == finished.config.drafts.num_records
    assert [each.run for each in updates_of(finished.config.storage.root, finished.config.run)] == [
        "test+june",
        "test+july",
    ]


def test_tables_in_memory_are_answered_as_files_are(asked: list[dict[str, Any]], finished: Plan):
    rows = [{"user_id": row["user_id"], "query_id": row["query_id"]} for row in asked]
    for row in rows:
        row["input"] = f"a story of comedy and {LABELS[int(row['query_id'][1:])]}"
    table = pa.Table.from_pylist(rows)

    def by_query(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {row["query_id"]: row for row in found}

    assert by_query(hydra_ray.predict(finished.run_folder, table).to_pylist()) == by_query(asked)
    frame = hydra_ray.predict(load_run(finished.run_folder), table.to_pandas())
    assert by_query(pa.Table.from_pandas(frame, preserve_index=False).to_pylist()) == by_query(asked)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"user_id": "a"}], "expected a pandas DataFrame, Arrow table or Ray Dataset"),
        (pa.table({"user_id": pa.array([], pa.string()), "input": pa.array([], pa.string())}), "there are no queries"),
        (pa.table({"user_id": ["a"], "input": ["b"], "output": ["comedy"]}), "only queries are answered here"),
    ],
)
def test_tables_without_queries_are_refused(finished: Plan, given: Any, said: str):
    with pytest.raises(InputError, match=said):
        hydra_ray.predict(finished.run_folder, given)


def test_records_are_no_queries(finished: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_rows(tmp_path / "records.jsonl", rows_of(["july"]))
    words = ["predict", finished.run_folder, "--queries", path, "--output"]
    assert main([*words, str(tmp_path / "out.parquet")]) == 2
    assert "only queries are answered here" in capsys.readouterr().err
    assert main([*words, f"{finished.config.storage.root}/out.parquet"]) == 2
    assert "below the storage root" in capsys.readouterr().err


def test_the_updates_of_a_run_are_listed_oldest_first(later: Plan, added: Plan, finished: Plan):
    assert [each.folder for each in load_run(finished.run_folder).updates()] == [added.run_folder, later.run_folder]
    assert load_run(added.run_folder).updates() == []


def test_status_and_report_show_the_line(later: Plan, finished: Plan, capsys: pytest.CaptureFixture[str]):
    for command in ("status", "report"):
        assert main([command, finished.run_folder]) == 0
        text = capsys.readouterr().out
        assert "2 updates:" in text
        assert text.index("test+june: 2 users came back, 3 new users") < text.index(
            "test+july: 2 users came back, 0 new"
        )


def test_the_same_again_changes_nothing_and_says_so(
    later: Plan, finished: Plan, june: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = contents(later)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(june).read_bytes())
    known = write_rows(tmp_path / "known.jsonl", [{"user_id": BACK, "history": monday()[-1]["history"]}])
    for path in (june, str(copy), known):
        assert main(["update", finished.run_folder, "--users", path]) == 0
        assert "nothing is changed" in capsys.readouterr().out
    assert contents(later) == before


def test_what_an_update_took_is_told(added: Plan, finished: Plan):
    summary = json.loads(Path(added.run_folder, "summary.json").read_text())
    assert summary == update_summary(added)
    assert (summary["num_users"], summary["num_queries"], summary["taught_by"]) == (5, 5, finished.config.run)
    assert (summary["returning_users"], summary["added_records"], summary["changed_records"]) == (2, 22, 0)
    assert [sum(heads.values()) for heads in summary["heads"].values()] == [5, 5]
    assert summary["requests"] >= summary["asked_now"] > 0
    stages = [line for line in status_lines(added.run_folder) if line.startswith("  ")]
    assert stages
    assert all("complete" in line for line in stages)


def test_known_targets_are_reported_on(added: Plan):
    metrics = json.loads(Path(added.run_folder, "metrics.json").read_text())
    assert (metrics["num_users"], metrics["num_queries"]) == (5, 5)


def test_adding_again_does_no_work(added: Plan):
    before = {path: path.stat().st_mtime_ns for path in contents(added) if path.suffix == ".parquet"}
    assert personalize(added.config).is_complete()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_users_without_targets_are_answered_and_not_reported_on(finished: Plan, tmp_path: Path):
    (row,) = rows_of(["july-0"])
    row["queries"] = [{"input": query["input"]} for query in row["queries"]]
    plan = personalize(update_config(finished.run_folder, [write_rows(tmp_path / "july.jsonl", [row])]))
    assert set(answered(plan)) == {"july-0"}
    assert Path(plan.run_folder, "predictions.json").exists()
    assert Path(plan.run_folder, "summary.json").exists()
    assert not Path(plan.run_folder, "metrics.json").exists()


@pytest.fixture(scope="module")
def text_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Plan, Plan]:
    """Runs of a text task: on everybody, on some, and the update of that by the others."""
    folder = tmp_path_factory.mktemp("texts")

    def rows(ids: Iterable[str], *, is_new: bool = True) -> list[dict[str, Any]]:
        return rows_of(ids, is_new=is_new, is_text=True)

    def config(name: str, new: list[str]) -> RunConfig:
        (folder / name).mkdir()
        everyone = [*rows(TRAINING, is_new=False), *rows(new)]
        few = {"prompts": ["zero_shot", "rag_k"], "num_samples": 2, "has_cuts": False, "num_probes": 2}
        return config_of(folder / name, everyone, "LaMP_4", drafts=few)

    whole = personalize(config("whole", [*NEW[:2], *ADDED]), until="answers")
    first = personalize(config("first", NEW[:2]))
    added = personalize(update_config(first.run_folder, [write_rows(folder / "june.jsonl", rows(ADDED))]))
    return whole, first, added


def test_added_users_get_the_heads_and_answers_of_new_users_of_the_run_itself(text_runs: tuple[Plan, Plan, Plan]):
    whole, _, added = text_runs
    for mine, theirs in ((added.reranker, whole.reranker), (added.adapter, whole.adapter)):
        found, expected = heads_of(mine.heads), heads_of(theirs.heads)
        for user_id in ADDED:
            assert found[user_id]["num_groups"] == expected[user_id]["num_groups"] > 0
            for column in ("code", "held_out_losses"):
                values = np.array(expected[user_id][column])
                assert abs(values).max() > 0.01
                np.testing.assert_allclose(found[user_id][column], values, rtol=1e-3, atol=1e-3 * abs(values).max())
    for user_id in ADDED:
        mine, theirs = (
            {answer.system: answer.value for answer in answered(plan)[user_id].queries[0].answers}
            for plan in (added, whole)
        )
        # Whose head is borrowed and what the gate chooses depends on who else is new.
        for system in set(theirs) - {"hydra_shuffled", "hydra"}:
            assert mine[system] == theirs[system]


def test_an_edited_text_is_a_record_that_is_asked_as_others_are(text_runs: tuple[Plan, Plan, Plan], tmp_path: Path):
    _, first, added = text_runs
    query = users_of(added)[ADDED[0]].queries[0]
    edited = {"user_id": ADDED[0], "query_id": query.query_id, "edited": "The title that I want"}
    said = [edited, {"user_id": ADDED[1], "query_id": "0", "thumb": "up"}]
    plan = update_run(first.run_folder, [write_rows(tmp_path / "said.jsonl", said)], is_feedback=True).plan
    judging = rows_in(plan, "users", JudgingUser, JUDGEMENTS)
    assert {name: [each.is_preference for each in row.judgements] for name, row in judging.items()} == {
        ADDED[0]: [False],
        ADDED[1]: [True],
    }
    record = users_of(plan)[ADDED[0]].history[-1]
    assert (record.input, record.output) == (query.input, "The title that I want")
    qualities = {
        each.query_id: [draft.quality for draft in each.drafts if draft.quality is not None]
        for each in rows_in(plan, "drafts", DraftedUser)[ADDED[0]].queries
    }
    assert all(qualities.values())


def test_feedback_on_labels_is_learned_from_as_records_are(later: Plan, finished: Plan, tmp_path: Path):
    run_folder = copied(finished, tmp_path)
    (query,) = answered(later)[BACK].queries
    given = next(answer.value for answer in query.answers if answer.system == "hydra")
    said = [
        {"user_id": BACK, "query_id": query.query_id, "thumb": "up"},
        {"user_id": QUIET, "query_id": "0", "chosen": "Mystery"},
    ]
    plan = update_run(run_folder, [write_rows(tmp_path / "said.jsonl", said)], is_feedback=True).plan
    assert {name: user.history[-1].output for name, user in users_of(plan).items()} == {BACK: given, QUIET: "mystery"}
    counts = {user_id: heads_of(plan.adapter.heads)[user_id]["num_groups"] for user_id in (BACK, QUIET)}
    assert min(counts.values()) > 0
