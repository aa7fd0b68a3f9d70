"""The fuzzing of configurations, here for a moment: a value or an error in this package's words, of every setting."""

import pytest
from configuration_fuzz import RUN_KEYS, SWEEP_KEYS, make_case, run_case

from hydra_ray.errors import ConfigError


@pytest.mark.parametrize("seed", range(4))
def test_any_configuration_is_taken_or_refused_in_our_own_words(seed, tmp_path):
    outcomes = [run_case(make_case(seed, number), tmp_path) for number in range(100)]
    assert {*outcomes} == {"taken", "refused"}


def test_every_setting_is_fuzzed_by_its_dotted_name():
    assert {"run", "lamp.task", "lamp.task.sentences.query", "generator.api.api_key_env"} <= {*RUN_KEYS}
    assert {"space", "search"} <= {*SWEEP_KEYS}
    tried = {override.partition("=")[0] for number in range(3000) for override in make_case(0, number).overrides}
    assert {*RUN_KEYS} <= tried


def test_a_case_depends_on_its_seed_and_number_alone():
    assert make_case(1, 2) == make_case(1, 2)
    assert make_case(1, 2) != make_case(2, 2)


@pytest.mark.parametrize(
    "message", ["x: Input should be a valid string", "lamp.task.function-after[_check(), Task].label", "x" * 2000]
)
def test_words_of_other_programs_are_findings(message, tmp_path, monkeypatch):
    def refusing(*_: object) -> None:
        raise ConfigError(message)

    monkeypatch.setattr("configuration_fuzz.load_config", refusing)
    monkeypatch.setattr("configuration_fuzz.load_sweep", refusing)
    with pytest.raises(AssertionError):
        run_case(make_case(0, 0), tmp_path)
