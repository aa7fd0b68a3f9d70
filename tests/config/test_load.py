"""Settings from a YAML file, and dotted overrides of them."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray.config import RunConfig, apply_override, check_config, load_config
from hydra_ray.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("*.yaml"))
CONFIGS = [path for path in SHIPPED if "sweep" not in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert isinstance(load_config(path), RunConfig)


def test_a_file_is_what_was_written_into_it(settings, path):
    assert load_config(path) == check_config(settings, "test")
    assert RunConfig.model_validate_json(load_config(path).model_dump_json()) == load_config(path)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("drafts.num_samples=4", 4),
        ("drafts.temperatures=[0.5, 1.0]", (0.5, 1.0)),
        ("answers.is_gated=false", False),
        ("users.num_folds=5", 5),
        ("reranker.base.encoder=package:x", "package:x"),
        ("reranker.heads.ranks=[4, 8]", (4, 8)),
        ("users.max_users=null", None),
        ("generator.is_constrained=false", False),
        ("lamp.planted.seed=5", 5),
    ],
)
def test_an_override_changes_its_setting_and_no_other(path, override, value):
    changed = load_config(path, [override]).model_dump()
    expected = load_config(path).model_dump()
    *parents, last = override.split("=")[0].split(".")
    inner = expected
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    assert changed == expected


def test_the_last_override_wins(path):
    assert load_config(path, ["probes.seed=1", "probes.seed=2"]).probes.seed == 2


names = st.text(alphabet="abc", min_size=1, max_size=3)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)


@examples(max_examples=100)
@given(st.dictionaries(names, trees, max_size=3), st.lists(names, min_size=1, max_size=3), st.integers())
def test_an_override_sets_its_key_and_leaves_the_given_settings_alone(settings, keys, value):
    before = yaml.safe_dump(settings)
    try:
        changed = apply_override(settings, f"{'.'.join(keys)}={value}")
    except ConfigError:
        reject()  # the key goes through a number
    finally:
        assert yaml.safe_dump(settings) == before
    for key in keys:
        changed = changed[key]
    assert changed == value


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "", "just text"])
def test_a_file_that_is_no_mapping_is_a_config_error_that_names_it(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


UNMADE_VALUES = ("run=!!int x", "run=!!int ''", "run=!!timestamp x", "lamp.task=!!bool x", "run=" + "[" * 3000)


@pytest.mark.parametrize("setting", UNMADE_VALUES)
def test_a_value_that_yaml_cannot_make_is_an_error_of_the_setting(setting: str):
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(SHIPPED[0], [setting])


@pytest.mark.parametrize("name", ["2024-02-29", "2024-02-30", "2026-13-45", "2026-11-28t10-00-00"])
def test_a_date_is_text_whatever_the_process_imported(name: str):
    with pytest.MonkeyPatch.context() as patched:
        as_text = yaml.SafeLoader.yaml_constructors["tag:yaml.org,2002:str"]
        patched.setitem(yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:timestamp", as_text)
        assert load_config(SHIPPED[0], [f"run={name}"]).run == name
    assert load_config(SHIPPED[0], [f"run={name}"]).run == name


@pytest.mark.parametrize(
    "override",
    ["generator.api={base_url: 'http://h', api_key: hunter2", "generator..api_key=hunter2", "sk-hunter2", "=hunter2"],
)
def test_the_value_of_an_override_that_cannot_be_read_is_not_told(override):
    with pytest.raises(ConfigError) as told:
        apply_override({}, override)
    assert "hunter2" not in str(told.value)
