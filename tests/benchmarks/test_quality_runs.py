from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_process
import pytest
import quality
from bars import Bar
from builders import run_config
from quality_pieces import digest_of, settings_of_run
from synthetic import CLASSIFICATION

from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.config import RunConfig
from hydra_ray.errors import HydraError
from hydra_ray.stages.plan import plan_run


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_LAMP_DIR", str(tmp_path))


@pytest.mark.parametrize("name", quality.SETS)
def test_the_published_method_shares_users_generator_and_probes(name: str) -> None:
    own = quality.set_config(name, "/runs")
    published, greedy, on_drafts = quality.published_configs(name, "/runs")
    for section in ("storage", "lamp", "users", "generator", "retrieve", "probes", "report"):
        assert getattr(published, section) == getattr(own, section)
    assert published.drafts.num_pseudo_queries == own.drafts.num_pseudo_queries
    drafts = published.drafts
    assert (drafts.num_records, drafts.num_samples, drafts.temperatures) == (4, 8, (1.0,))
    assert (drafts.candidates, drafts.num_probes, drafts.has_cuts) == ("drafts", 0, False)
    assert (drafts.prompts, drafts.sampled_prompts) == ((), ("reranked",))
    for scorer in (published.reranker, published.adapter):
        assert not scorer.has_plain_features
        assert scorer.base.loss == scorer.heads.paper_loss == "pointwise"
        assert (scorer.heads.kinds, scorer.heads.paper_start) == (("paper",), "random")
        assert (scorer.base.training_heads, scorer.base.trainable_layers, scorer.labels) == (
            "networks",
            "all",
            "published",
        )
        assert scorer.heads.paper_width == scorer.base.width == 384
    assert not published.answers.is_gated
    with_rag = drafts.model_copy(update={"prompts": ("rag_k",)})
    assert greedy == published.model_copy(update={"run": greedy.run, "drafts": with_rag})
    assert on_drafts == published.model_copy(update={"run": on_drafts.run, "drafts": own.drafts})


def test_every_user_of_a_set_is_new_in_one_of_five_folds(tmp_path: Path) -> None:
    for name in quality.SETS:
        config = quality.set_config(name, "/runs")
        assert config.users.num_folds == 5
        assert config.lamp.root == str(tmp_path / name)


def test_no_two_runs_share_a_folder_and_the_settings_of_all_are_frozen() -> None:
    configs: list[RunConfig] = quality.planted_configs("/runs", list(quality.PLANTED))
    for name in quality.SETS:
        configs += [quality.set_config(name, "/runs"), *quality.published_configs(name, "/runs")]
        for setting in quality.CURVES:
            configs += quality.curve_configs(name, "/runs", setting)
    runs = {config.run for config in configs}
    assert len(runs) == len(configs)
    assert set(quality.all_digests()) == runs | {quality.own_run(name) for name in quality.OWN_HEADS}


@pytest.fixture
def run_quality(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_piece: Callable[..., dict[str, Any]]):
    """Runs the benchmark below a folder of its own, where runs of some names fail; returns status and page."""

    def run(*arguments: str, failing: str = "") -> tuple[int, str]:
        def finish(config: RunConfig) -> dict[str, Any]:
            if config.run == failing:
                raise HydraError("no room is left")
            sections = {"lamp": config.lamp.model_dump()} if config.lamp.task == "planted" else {}
            return make_piece(CLASSIFICATION, config.run, **sections)

        monkeypatch.setattr(quality, "finish", finish)
        monkeypatch.setattr(quality, "RESULTS", tmp_path / "quality")
        monkeypatch.setattr(quality, "PAGE", tmp_path / "QUALITY.md")
        monkeypatch.setattr("sys.argv", ["quality.py", *arguments])
        status = quality.main()
        page = tmp_path / "QUALITY.md"
        return status, page.read_text(encoding="utf-8") if page.exists() else ""

    return run


RunQuality = Callable[..., tuple[int, str]]


def test_a_set_is_kept_as_soon_as_it_is_finished(run_quality: RunQuality, tmp_path: Path) -> None:
    status, page = run_quality("LaMP_2N", "LaMP_3", "LaMP_4", failing="lamp3")
    assert (status, page) == (2, "")
    assert [path.name for path in (tmp_path / "quality").iterdir()] == ["lamp2n.json"]
    status, page = run_quality("--page")
    assert status == 0  # what is not measured is no failure
    assert "Not measured: LaMP_4, movielens_rating, LaMP_5, LaMP_3." in page


def test_a_finished_run_is_kept_with_what_its_histories_predict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_process.install(monkeypatch)
    planted = {"num_train_users": 12, "num_new_users": 6, "num_records": 12}
    lamp = {"task": "planted", "planted": planted}
    config = run_config(str(tmp_path), generator={"engine": "none", "model": ""}, lamp=lamp)
    piece = quality.finish(config)
    model = read_own_model(plan_run(config).own_model.folder)
    assert piece["predicted_gain"]["quality"]["value"] == pytest.approx(model.gain.quality.value, abs=1e-5)
    assert piece["predicted_gain"]["num_users"] == 12
    assert {stage["name"] for stage in piece["stages"]} >= {"users", "adapter.own", "answers"}
    assert piece["settings_digest"] == digest_of(settings_of_run(config))
    assert piece == quality.finish(config)  # a finished run is kept again as it was
    quality.keep(tmp_path / "kept", config.run, piece)
    assert str(tmp_path) not in (tmp_path / "kept" / f"{config.run}.json").read_text()


def test_pieces_are_measured_one_at_a_time_and_the_page_has_all(run_quality: RunQuality) -> None:
    run_quality("LaMP_2N")
    run_quality("--published", "LaMP_2N")
    _, page = run_quality("--planted", "80-10")
    for run in ("lamp2n", "lamp2n-paper", "lamp2n-paper-greedy", "lamp2n-paper-drafts", "planted-80-10"):
        assert f"| {run} | 2026-11-30 12:00 UTC |" in page


def test_a_failed_bar_is_told_by_the_status(run_quality: RunQuality, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Bar(title="", is_passed=False, verdict="")
    monkeypatch.setattr(quality, "judge_bars", lambda *_: [failed])
    assert run_quality("--page")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["lamp2n", "lamp4", "movielens", "lamp5", "lamp3"]),
        (("LaMP_4",), ["lamp4"]),
        (("--published", "LaMP_3"), ["lamp3-paper", "lamp3-paper-greedy", "lamp3-paper-drafts"]),
        (("--planted",), [f"planted-{name}" for name in quality.PLANTED]),
    ],
)
def test_only_what_is_named_is_measured(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: list[str]
) -> None:
    runs: list[str] = []
    monkeypatch.setattr(quality, "personalize", lambda config, until: runs.append(config.run))
    monkeypatch.setattr("sys.argv", ["quality.py", *arguments, "--until", "users"])
    assert quality.main() == 0
    assert runs == expected


def test_without_a_folder_of_sets_the_message_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HYDRA_LAMP_DIR")
    monkeypatch.setattr("sys.argv", ["quality.py"])
    with pytest.raises(SystemExit, match="2"):
        quality.main()
    assert "set HYDRA_LAMP_DIR" in capsys.readouterr().err
    monkeypatch.delenv("HYDRA_JESTER_DIR", raising=False)
    monkeypatch.setattr("sys.argv", ["quality.py", "--own-heads", "jester-wide"])
    with pytest.raises(SystemExit, match="2"):
        quality.main()
    assert "set HYDRA_JESTER_DIR" in capsys.readouterr().err


def test_a_set_that_is_missing_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["quality.py", "--root", str(tmp_path / "runs"), "LaMP_2N"])
    assert quality.main() == 2
    assert "LaMP_2N" in capsys.readouterr().err
