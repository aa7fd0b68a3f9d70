from pathlib import Path
from typing import Any

import pytest
import yaml

from hydra_ray.errors import ConfigError
from hydra_ray.sweep.config import Range, Sweep, SweepConfig, load_sweep, require_root

SHIPPED = Path(__file__).parents[2] / "jobs" / "configs" / "sweep.yaml"
BASE = {
    "run": "base",
    "storage": {"root": "/root"},
    "lamp": {"task": "planted", "planted": {}},
    "generator": {"engine": "fake", "model": "none"},
    "reranker": {"base": {"encoder": "none"}},
    "adapter": {"base": {"encoder": "none"}},
}
SWEEP: dict[str, Any] = {"sweep": "s", "base": "base.yaml", "space": {"drafts.num_samples": [1, 2]}}


def written(folder: Path, **changes: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}))
    return folder / "sweep.yaml"


def test_the_shipped_sweep_varies_a_shipped_configuration():
    sweep = load_sweep(SHIPPED, ["storage.root=/elsewhere"])
    point = {key: values[0] for key, values in sweep.config.space.items() if not isinstance(values, Range)}
    config = sweep.run_config(point)
    assert config.storage.root == "/elsewhere"
    assert config.probes.num_records == point["probes.num_records"]


def test_a_trial_has_the_base_then_the_overrides_then_its_own_settings(tmp_path: Path):
    path = written(tmp_path, overrides={"probes.num_records": 7, "drafts.num_records": 3})
    sweep = load_sweep(path, ["drafts.num_records=5"])
    config = sweep.run_config({"drafts.num_samples": 2})
    assert (config.probes.num_records, config.drafts.num_records, config.drafts.num_samples) == (7, 5, 2)


def test_the_base_is_found_from_the_sweeps_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path)
    monkeypatch.chdir("/")
    assert load_sweep(path).base["storage"] == {"root": "/root"}


def test_settings_that_do_not_go_together_are_told_with_the_trial(tmp_path: Path):
    sweep = load_sweep(written(tmp_path))
    impossible = {"probes.num_records": 2, "drafts.num_records": 3}
    assert not sweep.is_possible(impossible)
    with pytest.raises(ConfigError, match=r"sweep s with probes.num_records=2, drafts.num_records=3 is not a valid"):
        sweep.run_config(impossible)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "space"),
        ({"space": {"drafts.num_samples": []}}, "space"),
        ({"space": {"run": ["a"]}}, "space"),
        ({"space": {"storage.root": ["/a", "/b"]}}, "changes no quality"),
        ({"space": {"placement.train_workers": [1, 2]}}, "changes no quality"),
        ({"space": {"drafts.num_samples": {"low": 1, "high": 3}}}, "a grid needs lists"),
        ({"space": {"a.b": {"low": 3, "high": 3}}, "search": "random", "num_trials": 2}, "low must be below high"),
        ({"space": {"a.b": {"low": 0, "high": 3, "log": True}}, "search": "random", "num_trials": 2}, "above 0"),
        ({"search": "random"}, "num_trials is needed"),
        ({"num_trials": 3}, "num_trials is needed"),
        ({"search": "hyperband"}, "search"),
        ({"overrides": {"drafts.num_samples": 3}}, "in space and in overrides"),
        ({"trials": 3}, "trials"),
        ({"space": {f"a.b{n}": [1, 2, 3, 4] for n in range(30)}}, "at most 20000 trials"),
        ({"search": "random", "num_trials": 10**9}, "at most 20000 trials"),
        ({"space": {"drafts.num_samples": 3}}, r"space\.drafts\.num_samples: got 3, expected a list"),
        (
            {"space": {"drafts.num_samples": {"low": "x", "high": 2}}},
            r"space\.drafts\.num_samples\.low: got 'x', expected a num",
        ),
        ({"space": {"drafts.num_samples": {"low": 1}}}, r"space\.drafts\.num_samples\.high: it is missing"),
        ({"space": {"drafts.num_samples": {"lo": 1, "high": 2}}}, r"space\.drafts\.num_samples\.lo: there is no such"),
        ({"space": {"drafts": [1]}}, r"space\.drafts: expected text of the form"),
        ({"base": 5}, "base: got 5, expected text"),
        ({"search": "gird"}, r"did you mean grid\?"),
    ],
)
def test_a_wrong_sweep_is_refused_with_what_is_wrong(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        load_sweep(written(tmp_path, **changes))


def test_a_range_of_whole_numbers_has_whole_numbers_only():
    config = SweepConfig.model_validate(
        {
            **SWEEP,
            "search": "random",
            "num_trials": 1,
            "space": {"a.b": {"low": 1, "high": 9}, "a.c": {"low": 1.0, "high": 9}},
        }
    )
    whole, real = (values for values in config.space.values() if isinstance(values, Range))
    assert (whole.is_whole, real.is_whole) == (True, False)


def test_a_storage_section_that_is_none_names_no_root(tmp_path: Path):
    for section in (None, 5, [], "x", {}, {"root": 5}):
        sweep = load_sweep(written(tmp_path))
        broken = Sweep(config=sweep.config, base={**sweep.base, "storage": section})
        with pytest.raises(ConfigError, match=r"add storage\.root=FOLDER"):
            require_root(broken)
