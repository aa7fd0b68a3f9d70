import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from quality_pieces import digest_of, freeze, frozen_settings, frozen_since, keep, kept, run_piece, settings_of_run
from synthetic import CLASSIFICATION, WORDS, synthetic_config

from hydra_ray.evaluate.summary import compare_runs, compare_systems

MEASURED = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
MakeReport = Callable[..., dict[str, Any]]


def lamp(folder: Path, text: str) -> dict[str, Any]:
    folder.mkdir()
    (folder / "dev_questions.json").write_text(text)
    return {"task": CLASSIFICATION.model_dump(), "root": str(folder)}


def test_no_id_no_text_and_no_place_is_kept(make_report: MakeReport, tmp_path: Path) -> None:
    sections = {"lamp": lamp(tmp_path / "news", "some users")}
    report = make_report(CLASSIFICATION, "news", **sections)
    keep(tmp_path, "news", run_piece(report, synthetic_config(CLASSIFICATION, "news", **sections), MEASURED, None))
    text = (tmp_path / "news.json").read_text()
    assert not any(f'"{user_id}"' in text for user_id in report["users"]["user_id"])
    assert str(tmp_path) not in text
    assert "/runs" not in text
    examples = {example["input"] for example in report["examples"]}
    assert examples
    assert not any(example in text for example in examples)
    assert sum(word in text for word in WORDS) < 5


def test_the_same_users_match_over_runs_and_other_files_users_do_not(make_report: MakeReport, tmp_path: Path) -> None:
    folders = {"one": "some users", "again": "some users", "other": "other users"}
    found = {}
    for name, text in folders.items():
        sections = {"lamp": lamp(tmp_path / name, text)}
        config = synthetic_config(CLASSIFICATION, name, **sections)
        found[name] = run_piece(make_report(CLASSIFICATION, name, **sections), config, MEASURED, None)
    ids = {name: piece["users"]["user_id"] for name, piece in found.items()}
    assert ids["one"] == ids["again"]
    assert set(ids["one"]).isdisjoint(ids["other"])
    assert len(set(ids["one"])) == 40
    assert all(each.startswith("dev:") for each in ids["one"])
    pair = compare_runs(found["one"], found["again"])
    assert (pair.first_U == pair.second_U).all()


def test_a_piece_compares_as_its_report_does(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(CLASSIFICATION, "news")
    keep(tmp_path, "news", run_piece(report, synthetic_config(CLASSIFICATION, "news"), MEASURED, None))
    (piece,) = kept(tmp_path).values()
    assert piece["measured"] == "2026-11-30 12:00 UTC"
    assert piece["seconds"] == 72
    for system in report["systems"]:
        assert (
            compare_systems(piece, "hydra", system).second_U == compare_systems(report, "hydra", system).second_U
        ).all()


def test_best_of_n_is_kept_and_reports_of_earlier_versions_have_none(make_report: MakeReport, tmp_path: Path) -> None:
    report, config = make_report(CLASSIFICATION, "news"), synthetic_config(CLASSIFICATION, "news")
    best_of_n = {"points": [{"num_drafts": 1, "oracle": {"value": 0.123456789, "low": None, "high": None}}]}
    keep(tmp_path, "new", run_piece(report | {"best_of_n": best_of_n}, config, MEASURED, None))
    keep(tmp_path, "old", run_piece(report, config, MEASURED, None))
    pieces = kept(tmp_path)
    assert pieces["new"]["best_of_n"]["points"][0]["oracle"] == {"value": 0.12346, "low": None, "high": None}
    assert pieces["old"]["best_of_n"] is None


def test_a_digest_tells_settings_apart_and_not_places() -> None:
    def digest(**sections: dict[str, Any]) -> str:
        return digest_of(settings_of_run(synthetic_config(CLASSIFICATION, **sections)))

    own = digest()
    assert digest(storage={"root": "/elsewhere"}, placement={"encoder_threads": 3}) == own
    assert digest(drafts={"num_samples": 3}) != own
    assert digest(report={"num_resamples": 501}) != own


def test_frozen_settings_are_no_piece(tmp_path: Path) -> None:
    assert frozen_settings(tmp_path) is None
    freeze(tmp_path, {"b": "2", "a": "1"}, datetime(2026, 11, 30, 8, 5, tzinfo=UTC))
    first = {"frozen": "2026-11-30 08:05 UTC", "since": {}, "digests": {"a": "1", "b": "2"}}
    assert frozen_settings(tmp_path) == first
    for hour, since in ((9, "2026-11-30 08:05 UTC"), (10, "2026-11-30 08:05 UTC")):
        freeze(tmp_path, {"a": "1", "b": str(hour), "c": "4"}, datetime(2026, 11, 30, hour, 5, tzinfo=UTC))
        found = frozen_settings(tmp_path)
        assert found is not None
        assert [frozen_since(found, run) for run in "ab"] == [since, f"2026-11-30 {hour:02d}:05 UTC"]
    assert not kept(tmp_path)


def test_a_piece_has_a_line_for_each_key(tmp_path: Path) -> None:
    piece = {"run": "news", "users": {"quality": {"hydra": [0.5, 1.0]}}}
    keep(tmp_path, "news", piece)
    lines = (tmp_path / "news.json").read_text().splitlines()
    assert lines == ["{", '"run": "news",', '"users": {"quality": {"hydra": [0.5, 1.0]}}', "}"]
    assert json.loads("".join(lines)) == piece


def test_kept_pieces_stay_small() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results" / "quality"
    assert sum(path.stat().st_size for path in folder.glob("*.json")) < 1_000_000


@pytest.mark.parametrize("name", ["piece", "settings"])
def test_what_is_kept_names_no_folder(name: str) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results" / "quality"
    for path in folder.glob("*.json"):
        if (path.name == "settings.json") == (name == "settings"):
            assert not any(place in path.read_text(encoding="utf-8") for place in ("/home", "/tmp", "/work", "/root"))
