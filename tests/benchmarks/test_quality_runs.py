from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quality
from synthetic import CLASSIFICATION

from hydra_ray.config import RunConfig, load_config
from hydra_ray.errors import HydraError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_LAMP_DIR", str(tmp_path))


@pytest.mark.parametrize("name", quality.SETS)
def test_the_published_method_shares_users_generator_and_probes(name: str) -> None:
    own, paper = quality.set_config(name, "/runs"), quality.paper_config(name, "/runs")
    for section in ("storage", "lamp", "users", "generator", "retrieve", "probes", "report"):
        assert getattr(paper, section) == getattr(own, section)
    assert paper.drafts.num_pseudo_queries == own.drafts.num_pseudo_queries
    assert (paper.drafts.num_records, paper.drafts.num_samples, paper.drafts.temperatures) == (4, 8, (1.0,))
    assert (paper.drafts.candidates, paper.drafts.num_probes, paper.drafts.has_cuts) == ("drafts", 0, False)
    assert (paper.drafts.prompts, paper.drafts.sampled_prompts) == ((), ("reranked",))
    for scorer in (paper.reranker, paper.adapter):
        assert not scorer.has_plain_features
        assert scorer.base.loss == scorer.heads.paper_loss == "pointwise"
        assert (scorer.heads.kinds, scorer.heads.paper_start) == (("paper",), "random")
    assert not paper.answers.is_gated


def test_every_user_of_a_set_is_new_in_one_of_five_folds(tmp_path: Path) -> None:
    for name in quality.SETS:
        config = quality.set_config(name, "/runs")
        assert config.users.num_folds == 5
        assert config.lamp.root == str(tmp_path / name)


def test_the_deciding_sample_has_planted_yamls_settings_and_users_of_its_own() -> None:
    samples = dict(zip(quality.PLANTED, quality.planted_configs("/runs", list(quality.PLANTED)), strict=True))
    deciding = samples.pop(quality.DECIDING)
    own = load_config(quality.CONFIGS / "planted.yaml", ["storage.root=/runs", f"run={deciding.run}"])
    assert deciding.model_copy(update={"lamp": own.lamp, "placement": own.placement}) == own
    assert deciding.lamp.planted is not None
    assert own.lamp.planted is not None
    assert {each.lamp.planted.seed for each in samples.values() if each.lamp.planted} == {own.lamp.planted.seed}
    assert deciding.lamp.planted.seed != own.lamp.planted.seed


def test_no_two_runs_share_a_folder() -> None:
    configs: list[RunConfig] = quality.planted_configs("/runs", list(quality.PLANTED))
    for name in quality.SETS:
        own = quality.set_config(name, "/runs")
        configs += [own, quality.paper_config(name, "/runs")]
        for setting in quality.CURVES:
            configs += quality.curve_configs(name, "/runs", setting)
    assert len({config.run for config in configs}) == len(configs)


def test_a_run_that_fails_leaves_the_page_of_those_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_report: Callable[..., dict[str, Any]]
) -> None:
    def finish(config: RunConfig) -> dict[str, Any]:
        if config.run == "lamp2n-paper":
            raise HydraError("no room is left")
        if config.lamp.task == "planted":
            return make_report(CLASSIFICATION, config.run, lamp=config.lamp.model_dump())
        return make_report(CLASSIFICATION, config.run)

    monkeypatch.setattr(quality, "finish", finish)
    page = tmp_path / "QUALITY.md"
    monkeypatch.setattr("sys.argv", ["quality.py", "LaMP_2N", "--planted", quality.DECIDING, "--page", str(page)])
    assert quality.main() == 2
    found = page.read_text(encoding="utf-8")
    assert "The planted sample (40 new users)" in found
    assert "The published method was not run on LaMP_2N" in found


def test_the_deciding_sample_runs_before_the_illustrating_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(quality, "personalize", lambda config, until: runs.append(config.run))
    monkeypatch.setattr("sys.argv", ["quality.py", "LaMP_2N", "--until", "users"])
    assert quality.main() == 0
    others = [f"planted-{name}" for name in quality.PLANTED if name != quality.DECIDING]
    assert runs == ["lamp2n", f"planted-{quality.DECIDING}", "lamp2n-paper", *others]


def test_without_a_folder_of_sets_the_message_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HYDRA_LAMP_DIR")
    monkeypatch.setattr("sys.argv", ["quality.py"])
    with pytest.raises(SystemExit, match="2"):
        quality.main()
    assert "set HYDRA_LAMP_DIR" in capsys.readouterr().err


def test_a_set_that_is_missing_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["quality.py", "--root", str(tmp_path / "runs"), "LaMP_2N"])
    assert quality.main() == 2
    assert "LaMP_2N" in capsys.readouterr().err
