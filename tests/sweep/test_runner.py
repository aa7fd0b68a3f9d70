import importlib.util
from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.errors import ConfigError
from hydra_ray.stages.plan import plan_run
from hydra_ray.sweep.config import Sweep, SweepConfig, require_root
from hydra_ray.sweep.ledger import Ledger
from hydra_ray.sweep.runner import exactly_once, forecast, ledger_of, run_sweep, sweep_folder
from hydra_ray.sweep.stage_reuse import stages_until

SPACE = {"probes.num_records": [1, 3], "drafts.num_records": [1, 2]}


def sweep_of(root: str, sections: dict[str, Any] | None = None, **changes: Any) -> Sweep:
    config = SweepConfig.model_validate({"sweep": "s", "base": "none", "space": SPACE, **changes})
    return Sweep(config=config, base=run_config(root, **(sections or {})).model_dump(mode="json"))


def test_a_grid_says_what_it_computes_and_which_points_it_leaves_out(tmp_path: Path):
    known = forecast(sweep_of(str(tmp_path)))
    assert known.trials is not None
    assert len(known.trials) == 3
    text = "\n".join(known.lines)
    num_stages = len(known.trials[0].stages)
    assert "3 of 4 trials: the others are not valid configurations" in text
    # Users, profiles, the labeller and own heads know of neither setting; probes and the reranker of one; all others of
    # both.
    distinct = 5 * 1 + 5 * 2 + (num_stages - 10) * 3
    assert f"they need {3 * num_stages} stage results, {distinct} of them distinct: 0 are complete" in text


def test_optuna_says_what_its_trials_can_need(tmp_path: Path):
    known = forecast(sweep_of(str(tmp_path), search="optuna", num_trials=7))
    assert known.trials is None
    assert "7 trials that optuna chooses" in known.lines[0]


def test_trials_that_could_not_be_judged_are_refused_before_any_is_run(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"judged_on: history needs answers\.is_gated"):
        forecast(sweep_of(str(tmp_path), {"answers": {"is_gated": False}}))


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="the package mlflow is installed")
def test_a_server_that_cannot_be_reached_for_want_of_a_package_is_told_beforehand(tmp_path: Path):
    with pytest.raises(ConfigError, match="package mlflow is not installed"):
        forecast(sweep_of(str(tmp_path), mlflow_uri="http://localhost:5000"))


@pytest.mark.parametrize("search", [{}, {"search": "optuna", "num_trials": 2}])
def test_a_missing_key_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: dict[str, Any]
):
    monkeypatch.delenv("SWEEP_KEY", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("hydra_ray.sweep.ray_tune_search.start_ray", lambda: pytest.fail("Ray was started"))
    api = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "SWEEP_KEY"}
    generator = {"engine": "openai", "api": api}
    sweep = sweep_of(str(tmp_path), {"generator": generator}, **search)
    with pytest.raises(ConfigError, match="SWEEP_KEY, which is not set"):
        run_sweep(sweep, forecast(sweep))


def test_a_base_without_a_root_is_told():
    with pytest.raises(ConfigError, match=r"has no storage\.root"):
        require_root(Sweep(config=sweep_of("/nowhere").config, base={}))


def test_a_stage_that_was_computed_twice_shows(tmp_path: Path):
    sweep = sweep_of(str(tmp_path))
    ledger = ledger_of(sweep)
    assert ledger == Ledger(folder=f"{sweep_folder(sweep)}/computed")
    first, second = stages_until(plan_run(run_config(str(tmp_path))), "profiles")
    ledger.record(first, "s-1")
    ledger.record(second, "s-1")
    assert exactly_once(ledger) == "2 stages were computed by this sweep, each exactly once"
    ledger.record(first, "s-2")
    assert exactly_once(ledger).endswith(f"not all of them once: users {first.fingerprint} 2 times")
