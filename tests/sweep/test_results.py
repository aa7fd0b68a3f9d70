from typing import Any

import pytest
import yaml
from builders import run_config

from hydra_ray.config import load_config
from hydra_ray.errors import InputError
from hydra_ray.sweep.config import Sweep, SweepConfig
from hydra_ray.sweep.results import Outcome, config_yaml, gather, result_lines, results_table
from hydra_ray.sweep.trial import Worth

SPACE = {"probes.num_records": [2, 3], "adapter.heads.ranks": [[4], [16]], "lamp.task": ["planted", 7]}
SWEEP = Sweep(config=SweepConfig.model_validate({"sweep": "s", "base": "none", "space": SPACE}), base={})


def outcome(quality: float | None, tokens: int = 10, **settings: Any) -> Outcome:
    point = {"probes.num_records": 2, "adapter.heads.ranks": [4], "lamp.task": "planted", **settings}
    worth = Worth(
        run=f"s-{quality}-{tokens}",
        quality=quality or 0,
        quality_low=0.1,
        quality_high=0.9,
        generated_tokens=tokens,
        prompt_tokens=100,
        requests=5,
        seconds=1.5,
        num_computed=3,
    )
    is_failed = quality is None
    return Outcome(settings=point, worth=None if is_failed else worth, error="out of luck" if is_failed else None)


OUTCOMES = [
    outcome(0.5, **{"probes.num_records": 3}),
    outcome(None, **{"lamp.task": 7}),
    outcome(0.7, tokens=30, **{"adapter.heads.ranks": [16]}),
    outcome(0.4),
]


def test_results_are_sorted_and_failures_are_kept():
    results = gather(SWEEP, OUTCOMES)
    assert [result.worth.quality for result in results.results] == [0.7, 0.5, 0.4]
    assert [result.is_on_front for result in results.results] == [True, True, False]
    assert [failure.error for failure in results.failures] == ["out of luck"]
    assert results.best.settings["adapter.heads.ranks"] == [16]


def test_a_point_that_was_tried_again_counts_once():
    assert gather(SWEEP, [*OUTCOMES, *OUTCOMES]) == gather(SWEEP, OUTCOMES)


def test_a_sweep_in_which_everything_failed_says_why():
    with pytest.raises(InputError, match="no trial of the sweep s succeeded; the first: out of luck"):
        gather(SWEEP, [outcome(None)])


def test_the_table_has_a_column_a_setting_and_a_row_a_trial():
    table = results_table(gather(SWEEP, OUTCOMES))
    rows = table.to_pylist()
    assert table.column_names[:4] == ["run", *SPACE]
    assert [row["quality"] for row in rows] == [0.7, 0.5, 0.4, None]
    assert [row["error"] for row in rows] == [None, None, None, "out of luck"]
    assert [row["probes.num_records"] for row in rows] == [2, 3, 2, 2]
    assert [row["adapter.heads.ranks"] for row in rows] == ["[16]", "[4]", "[4]", "[4]"]
    assert [row["lamp.task"] for row in rows] == ['"planted"', '"planted"', '"planted"', "7"]


def test_what_differs_between_attempts_is_not_in_the_table():
    assert "num_computed" not in results_table(gather(SWEEP, OUTCOMES)).column_names


def test_the_terminal_shows_the_best_first_and_says_how_many_it_leaves_out():
    lines = result_lines(gather(SWEEP, OUTCOMES), num_shown=2)
    assert lines[1].split()[0] == "0.700"
    assert lines[2].split()[0] == "0.500"
    assert lines[3] == "and 1 more in results.parquet"


def test_the_best_configuration_runs_as_it_is(tmp_path):
    config = run_config(str(tmp_path), adapter={"heads": {"ranks": [2], "prior_scale": 0.5}})
    (tmp_path / "best.yaml").write_text(config_yaml(config))
    assert load_config(tmp_path / "best.yaml") == config
    assert set(yaml.safe_load(config_yaml(config))) == set(type(config).model_fields)
