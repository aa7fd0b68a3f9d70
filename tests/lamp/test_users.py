import json
import logging
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from hydra_ray import storage
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.lamp.leaks import LEAK
from hydra_ray.lamp.users import ingest, input_fingerprint
from hydra_ray.rows import Rejected, User, arrow_schema, from_table
from hydra_ray.runs.root import bucket_key_of, pseudonym, receipt_location, root_key
from hydra_ray.runs.stage import Stage, bucket_of


def _rows(stage: Stage, table: str, row_type: type):
    tables = [storage.read_part(part, arrow_schema(row_type)) for part in stage.parts(table)]
    return [row for each in tables for row in from_table(each, row_type)]


def _golds(samples):
    return [(sample["id"], "romance") for sample in samples]


@pytest.fixture
def root(write_split, sample_of) -> str:
    train = [sample_of(f"t{n}", num_records=n % 4) for n in range(20)]
    new = [sample_of(f"n{n}") for n in range(10)]
    write_split("dev", new, reversed(_golds(new)))
    return write_split("train", train, reversed(_golds(train)))


def test_every_sample_becomes_one_user_of_its_bucket_with_its_target(make_config, stage, tags, root):
    config = make_config({"task": tags.model_dump(), "root": root})
    counters = ingest(config, stage)
    assert counters == {
        "users": 30, "train_users": 20, "new_users": 10, "records": 5 * 6 + 20, "queries": 30, "rejected": 0,
        "leaking_users": 0,
    }  # fmt: skip
    seen = {}
    for bucket, part in enumerate(stage.parts("users")):
        users = list(from_table(storage.read_part(part, arrow_schema(User)), User))
        assert [user.user_id for user in users] == sorted(user.user_id for user in users)
        assert {bucket_of(user.user_id, 3, bucket_key_of(config)) for user in users} <= {bucket}
        seen |= {user.user_id: user for user in users}
    for split in ("train", "dev"):
        for raw in json.loads(Path(root, f"{split}_questions.json").read_text()):
            user = seen.pop(f"{split}:{raw['id']}")
            assert user.is_new == (split == "dev")
            assert [query.target for query in user.queries] == ["romance"]
            assert [record.record_id for record in user.history] == [record["id"] for record in raw["profile"]]
    assert not seen
    assert _rows(stage, "rejected", Rejected) == []


def test_what_cannot_be_used_is_in_the_rejected_table_and_in_the_log(
    make_config, stage, tags, write_split, sample_of, caplog
):
    train = [sample_of("a"), sample_of("a"), sample_of("b", input="none"), sample_of("c"), sample_of("d"), "e"]
    golds = [("a", "romance"), ("c", "horror"), ("d", "comedy"), ("d", "romance")]
    new = [sample_of("a"), sample_of("x")]
    write_split("dev", new, [("a", "Comedy")])
    root = write_split("train", train, golds)
    counters = ingest(make_config({"task": tags.model_dump(), "root": root}, max_rejected_fraction=0.9), stage)
    assert (counters["users"], counters["rejected"]) == (2, 6)
    assert [user.user_id for user in _rows(stage, "users", User)] in (["train:a", "dev:a"], ["dev:a", "train:a"])
    reasons = {(row.source, row.position, row.sample_id): row.reason for row in _rows(stage, "rejected", Rejected)}
    expected = {
        ("train_questions.json", 1, "a"): "same id as sample 0",
        ("train_questions.json", 2, "b"): "instruction",
        ("train_questions.json", 3, "c"): "is not a label",
        ("train_questions.json", 4, "d"): "2 different targets",
        ("train_questions.json", 5, ""): "not an object",
        ("dev_questions.json", 1, "x"): "no target",
    }
    assert reasons.keys() == expected.keys()
    assert all(part in reasons[key] for key, part in expected.items())
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 5


def test_too_many_rejected_samples_stop_the_stage_however_often_it_is_run(
    make_config, stage, tags, write_split, sample_of
):
    train = [sample_of(f"t{n}") for n in range(4)]
    write_split("dev", [sample_of("n")], None)
    root = write_split("train", train, _golds(train[:2]))
    for _ in range(2):
        with pytest.raises(InputError, match="2 of 5 samples"):
            ingest(make_config({"task": tags.model_dump(), "root": root}, max_rejected_fraction=0.39), stage)
        assert not stage.is_complete()
    assert (
        ingest(make_config({"task": tags.model_dump(), "root": root}, max_rejected_fraction=0.4), stage)["users"] == 3
    )


def test_new_users_need_no_targets(make_config, stage, tags, write_split, sample_of):
    train = [sample_of("t")]
    write_split("dev", [sample_of("n")], None)
    root = write_split("train", train, _golds(train))
    ingest(make_config({"task": tags.model_dump(), "root": root}), stage)
    targets = {user.user_id: user.queries[0].target for user in _rows(stage, "users", User)}
    assert targets == {"train:t": "romance", "dev:n": None}


def test_committed_parts_are_not_rewritten_and_the_missing_ones_are_the_same_again(make_config, stage, tags, root):
    config = make_config({"task": tags.model_dump(), "root": root})
    counters = ingest(config, stage)
    before = [Path(part).read_bytes() for part in stage.parts("users")]
    times = [Path(part).stat().st_mtime_ns for part in stage.parts("users")]
    Path(stage.part("users", 1)).unlink()
    assert ingest(config, stage) == counters
    assert [Path(part).read_bytes() for part in stage.parts("users")] == before
    after = [Path(part).stat().st_mtime_ns for part in stage.parts("users")]
    assert (after[0], after[2]) == (times[0], times[2])
    for path in Path(root).iterdir():
        path.unlink()
    assert ingest(config, stage) == counters  # nothing is missing, so nothing is read


def test_max_users_limits_each_split(make_config, stage, tags, root):
    counters = ingest(make_config({"task": tags.model_dump(), "root": root}, max_users=4), stage)
    assert (counters["train_users"], counters["new_users"]) == (4, 4)


def test_own_files_are_ingested_and_limited_by_kind_of_user(make_config, stage, tags, tmp_path):
    rows = [
        {"user_id": f"u{n}", "is_new": n % 2 == 0, "history": [], "queries": [{"input": "?", "target": "comedy"}]}
        for n in range(8)
    ]
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path, part in zip(paths, (rows[:5], rows[5:]), strict=True):
        path.write_text("\n".join(map(json.dumps, part)))
    lamp = {"task": tags.model_dump(), "users_files": list(map(str, paths))}
    prints = {tuple(input_fingerprint(make_config({**lamp, "users_files": [str(path)]}).lamp)) for path in paths}
    assert len(prints) == 2
    ingest(make_config(lamp, max_users=3), stage)
    assert {user.user_id for user in _rows(stage, "users", User)} == {f"u{n}" for n in range(6)}


def test_ids_that_differ_by_unicode_form_alone_are_two_users(make_config, stage, tags, tmp_path):
    ids = [unicodedata.normalize(form, "Zo\xe9") for form in ("NFC", "NFD")]
    rows = [{"user_id": each, "is_new": each == ids[0], "history": [], "queries": []} for each in ids]
    path = tmp_path / "users.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    ingest(make_config({"task": tags.model_dump(), "users_files": str(path)}), stage)
    assert {user.user_id for user in _rows(stage, "users", User)} == set(ids)


def test_the_planted_sample_is_ingested(make_config, stage):
    config = make_config({"task": "planted", "planted": {"num_train_users": 5, "num_new_users": 3, "num_records": 9}})
    counters = ingest(config, stage)
    assert (counters["train_users"], counters["new_users"], counters["records"]) == (5, 3, 72)


def test_the_planted_sample_needs_its_own_task(make_config, stage):
    config = make_config({"task": "LaMP_2M", "planted": {}})
    with pytest.raises(ConfigError, match="planted"):
        ingest(config, stage)


@pytest.mark.parametrize(("is_new", "name"), [(False, "new users"), (True, "training users")])
def test_both_kinds_of_users_are_needed(make_config, stage, tags, tmp_path, is_new, name):
    path = tmp_path / "users.jsonl"
    path.write_text(json.dumps({"user_id": "u", "is_new": is_new, "history": [], "queries": []}))
    with pytest.raises(InputError, match=f"holds no {name}"):
        ingest(make_config({"task": tags.model_dump(), "users_files": [str(path)]}), stage)


def test_the_input_fingerprint_follows_content_and_not_place_or_time(make_config, tags, root, tmp_path):
    lamp = {"task": tags.model_dump(), "root": root}
    before = input_fingerprint(make_config(lamp).lamp)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in Path(root).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert input_fingerprint(make_config({**lamp, "root": str(copy)}).lamp) == before
    for name in ("train_questions", "train_outputs", "dev_questions", "dev_outputs"):
        path = copy / f"{name}.json"
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert input_fingerprint(make_config({**lamp, "root": str(copy)}).lamp) != before
        path.write_bytes(content)
    (copy / "dev_outputs.json").unlink()
    assert input_fingerprint(make_config({**lamp, "root": str(copy)}).lamp) != before
    (copy / "dev_questions.json").unlink()
    with pytest.raises(InputError, match=r"dev_questions\.json"):
        input_fingerprint(make_config({**lamp, "root": str(copy)}).lamp)


def test_the_planted_fingerprint_follows_every_parameter(make_config):
    lamp = {"task": "planted"}
    changes = ({}, {"seed": 1}, {"num_train_users": 1}, {"num_new_users": 1}, {"num_records": 2})
    prints = [tuple(input_fingerprint(make_config({**lamp, "planted": change}).lamp)) for change in changes]
    assert len(set(prints)) == len(changes)


def test_lamp_imports_neither_ray_nor_torch():
    code = "import sys, hydra_ray.lamp.users, hydra_ray.lamp.predictions; print({'ray', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("drop_leaks", [False, True])
def test_users_whose_history_tells_a_target_are_counted_and_left_out_on_demand(
    make_config, stage, tags, write_split, sample_of, drop_leaks
):
    def leaking(sample_id):
        sample = sample_of(sample_id)
        sample["profile"][1]["text"] = f" QUERY of\n{sample_id} "
        return sample

    train = [sample_of("a"), leaking("b"), leaking("c")]
    new = [leaking("d"), sample_of("e")]
    write_split("dev", new, None)
    root = write_split("train", train, _golds(train))
    lamp = {"task": tags.model_dump(), "root": root, "drop_leaks": drop_leaks}
    counters = ingest(make_config(lamp, max_rejected_fraction=0), stage)
    assert counters["leaking_users"] == 3
    assert counters["rejected"] == (3 if drop_leaks else 0)
    kept = {user.user_id for user in _rows(stage, "users", User)}
    assert kept == ({"train:a", "dev:e"} if drop_leaks else {"train:a", "train:b", "train:c", "dev:d", "dev:e"})
    rejected = {(row.source, row.position, row.sample_id, row.reason) for row in _rows(stage, "rejected", Rejected)}
    places = [("train_questions.json", 1, "b"), ("train_questions.json", 2, "c"), ("dev_questions.json", 0, "d")]
    assert rejected == ({(*place, LEAK) for place in places} if drop_leaks else set())


def test_own_users_who_leak_are_left_out_too(make_config, stage, tmp_path):
    history = [{"input": "an article", "output": "The  headline"}]
    rows = [
        {"user_id": f"u{n}", "is_new": n > 1, "history": history, "queries": [{"input": "?", "target": target}]}
        for n, target in enumerate(["Other", "the headline", "The headline!", "THE HEADLINE"])
    ]
    path = tmp_path / "users.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    lamp = {"task": "LaMP_4", "users_files": [str(path)], "drop_leaks": True}
    assert ingest(make_config(lamp), stage)["leaking_users"] == 2
    assert {user.user_id for user in _rows(stage, "users", User)} == {"u0", "u2"}


def test_in_a_cross_fitted_run_everyone_teaches_and_is_new_in_exactly_one_fold(
    make_config, stage, tags, write_split, sample_of
):
    train, new = [sample_of(f"t{n}") for n in range(60)], [sample_of(f"n{n}") for n in range(40)]
    write_split("dev", new, _golds(new))
    root = write_split("train", train, _golds(train))
    lamp = {"task": tags.model_dump(), "root": root}
    counters = ingest(make_config(lamp, num_folds=5), stage)
    assert counters["users"] == counters["train_users"] == counters["new_users"] == 100
    users = _rows(stage, "users", User)
    assert not any(user.is_new for user in users)
    assert all(user.is_evaluated() and user.queries[0].target == "romance" for user in users)
    folds = {user.user_id: user.fold for user in users}
    sizes = Counter(folds.values())
    assert set(sizes) == set(range(5))
    assert min(sizes.values()) >= 10
    for changes, is_same in (({}, True), ({"bucket_key": "other"}, True), ({"fold_seed": 1}, False)):
        again = Stage(name="users", fingerprint=f"{changes}", root=stage.root, num_buckets=3)
        ingest(make_config(lamp, num_folds=5, **changes), again)
        assert ({user.user_id: user.fold for user in _rows(again, "users", User)} == folds) == is_same


def test_without_folds_the_splits_say_who_is_new(make_config, stage, tags, root):
    ingest(make_config({"task": tags.model_dump(), "root": root}), stage)
    users = _rows(stage, "users", User)
    assert {user.fold for user in users} == {None}
    assert {user.user_id for user in users if user.is_evaluated()} == {f"dev:n{n}" for n in range(10)}


def test_a_user_without_a_target_cannot_be_cross_fitted(make_config, stage, tags, write_split, sample_of):
    train, new = [sample_of(f"t{n}") for n in range(4)], [sample_of("n0"), sample_of("n1")]
    write_split("dev", new, None)
    root = write_split("train", train, _golds(train))
    counters = ingest(
        make_config({"task": tags.model_dump(), "root": root}, num_folds=2, max_rejected_fraction=0.5), stage
    )
    assert (counters["users"], counters["rejected"]) == (4, 2)
    rejected = _rows(stage, "rejected", Rejected)
    assert {(row.source, row.sample_id) for row in rejected} == {
        ("dev_questions.json", "n0"),
        ("dev_questions.json", "n1"),
    }
    assert all("a query has no target" in row.reason and "cross-fitted" in row.reason for row in rejected)


@pytest.mark.lamp
@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("LaMP_2N", "LaMP_2N"),
        ("LaMP_3", "LaMP_3"),
        ("LaMP_4", "LaMP_4"),
        ("LaMP_5", "LaMP_5"),
        ("LaMP_7", "LaMP_7"),
        ("movielens_rating", "LaMP_3"),
    ],
)
def test_real_lamp_users_are_ingested_as_a_plain_json_reader_sees_them(make_config, stage, folder, task):
    if "HYDRA_LAMP_DIR" not in os.environ:
        pytest.skip("HYDRA_LAMP_DIR is not set")
    root = Path(os.environ["HYDRA_LAMP_DIR"], folder)
    counters = ingest(make_config({"task": task, "root": str(root)}), stage)
    raw = {split: json.loads((root / f"{split}_questions.json").read_text()) for split in ("train", "dev")}
    assert counters["rejected"] == 0
    assert (counters["train_users"], counters["new_users"]) == (len(raw["train"]), len(raw["dev"]))
    users = {user.user_id: user for user in _rows(stage, "users", User)}
    output_field = {"LaMP_2N": "category", "LaMP_3": "score", "LaMP_7": "text"}.get(task, "title")
    for split, samples in raw.items():
        outputs = json.loads((root / f"{split}_outputs.json").read_text())["golds"]
        targets = {gold["id"]: gold["output"].strip() for gold in outputs}
        for sample in samples:
            user = users[f"{split}:{sample['id']}"]
            assert user.queries[0].target == targets[sample["id"]]
            assert sample["input"].rstrip().endswith(user.queries[0].input)
            assert len(user.queries[0].input) < len(sample["input"])
            assert [(record.record_id, record.date) for record in user.history] == [
                (record["id"], record.get("date")) for record in sample["profile"]
            ]
            assert [record.output for record in user.history] == [
                record[output_field].strip() for record in sample["profile"]
            ]


def test_who_was_forgotten_is_not_taken_in_again(make_config, stage, tags, write_split, sample_of):
    train = [sample_of(f"t{n}") for n in range(6)]
    # Two who cannot be used, one of them forgotten.
    unusable = [{**sample_of("t6"), "input": "no question"}, {**sample_of("t7"), "input": "no question"}]
    write_split("dev", new := [sample_of(f"n{n}") for n in range(3)], _golds(new))
    root = write_split("train", [*train, *unusable], _golds([*train, *unusable]))
    config = make_config({"task": tags.model_dump(), "root": root}, max_rejected_fraction=0.5)
    for user_id in ("train:t1", "train:t7", "dev:n2"):
        storage.write_json(receipt_location(stage.root, pseudonym(user_id, root_key(stage.root))), {})
    ingest(config, stage)
    assert {user.user_id for user in _rows(stage, "users", User)} == {
        *(f"train:t{n}" for n in (0, 2, 3, 4, 5)),
        "dev:n0",
        "dev:n1",
    }
    assert [row.sample_id for row in _rows(stage, "rejected", Rejected)] == ["t6"]
