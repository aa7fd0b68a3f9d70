from pathlib import Path

import pytest
import yaml
from hypothesis import given, reject
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray.config import RunConfig, Section, StorageConfig, Task, apply_override, check_config, load_config
from hydra_ray.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "jobs" / "configs").glob("*.yaml"))
CONFIGS = [path for path in SHIPPED if "sweep" not in yaml.safe_load(path.read_text())]
SCORER = {"base": {"encoder": "none"}}
SETTINGS = {
    "run": "test",
    "storage": {"root": "/tmp/storage"},
    "lamp": {"task": "planted", "planted": {}},
    "generator": {"model": "none"},
    "reranker": SCORER,
    "adapter": SCORER,
}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert isinstance(load_config(path), RunConfig)


def test_a_file_is_what_was_written_into_it(path):
    assert load_config(path) == check_config(SETTINGS, "test")
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("drafts.num_samples", "section.key=value"),
        ("=4", "section.key=value"),
        ("drafts..num_samples=4", "section.key=value"),
        ("drafts.num_samples={", "not YAML"),
        ("run.name=4", "goes through 'run'"),
        ("drafts.num_smaples=4", "drafts.num_smaples: there is no such setting; did you mean drafts.num_samples"),
        ("adapter.heads.rank=[2]", "did you mean adapter.heads.ranks"),
        ("generator.api.base=x", "did you mean generator.api.base_url"),
        ("answers.speed=1", "answers.speed: there is no such setting, only is_gated"),
        ("draft.num_samples=4", "draft: there is no such setting; did you mean drafts"),
        ("nosuch.key=1", "nosuch"),
        ("drafts.num_samples=0", "drafts.num_samples"),
        ("drafts.num_samples=many", "drafts.num_samples"),
        ("run=../escape", "run"),
        ("drafts.num_records=11", "probes.num_records"),
        ("drafts.num_pseudo_queries=11", "probes.num_pseudo_queries"),
        ("lamp.root=/somewhere", "exactly one of root"),
        ("lamp.planted=null", "exactly one of root"),
        ("drafts.prompts=[zero_shot, rag_3]", "drafts.prompts"),
        ("drafts.prompts=[zero_shot, rag_1]", "answers.is_gated needs zero_shot and rag_k"),
        ("drafts.temperatures=[]", "drafts.temperatures"),
        ("drafts.temperatures=[0]", "drafts.temperatures"),
        ("users.num_folds=0", "users.num_folds"),
        ("reranker.heads.kinds=[]", "kinds must not be empty"),
        ("reranker.heads.ranks=[]", "ranks must not be empty"),
    ],
)
def test_a_wrong_override_is_a_config_error_that_names_it(path, override, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load_config(path, [override])


def test_without_a_gate_any_prompts_may_be_drafts(path):
    config = load_config(path, ["drafts.prompts=[]", "answers.is_gated=false"])
    assert config.drafts.prompts == ()


def test_all_wrong_settings_are_named_at_once_with_the_file(path):
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["probes.seed=x", "drafts.typo=1"])
    for part in (str(path), "probes.seed", "drafts.typo"):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "", "just text"])
def test_a_file_that_is_no_mapping_is_a_config_error_that_names_it(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "text", "labels": ("a",)}, "labels"),
        ({"kind": "rating"}, "labels"),
        ({"labels": ("a", "a")}, "distinct"),
        ({"kind": "rating", "labels": ("low", "high")}, "float"),
        ({"input_pattern": "("}, "regular expression"),
        ({"input_pattern": ".+"}, "group named 'input'"),
    ],
)
def test_an_impossible_task_is_refused(changes, message):
    settings = {"name": "t", "kind": "classification", "instruction": "?", "labels": ("a", "b"), **changes}
    with pytest.raises(ValueError, match=message):
        Task.model_validate(settings)


def test_sections_are_frozen_and_refuse_unknown_keys():
    sections = Section.__subclasses__()
    assert RunConfig in sections
    for section in sections:
        assert section.model_config.get("frozen")
        assert section.model_config.get("extra") == "forbid"


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


def test_labels_that_yaml_reads_as_booleans_are_told_to_be_quoted():
    described = "{name: t, kind: classification, instruction: Which team, labels: [yes, no]}"
    with pytest.raises(ConfigError) as told:
        load_config(SHIPPED[0], [f"lamp.task={described}"])
    _, *lines = str(told.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["lamp.task.labels.0", "lamp.task.labels.1"]
    assert all("quote it" in line for line in lines)


@pytest.mark.parametrize("root", ["", " ", "s3:", "s3:/", "s3://", "s3:/bucket/folder", "s3:///folder", "gs:/bucket/x"])
def test_a_root_that_is_no_location_says_what_is_expected(root: str):
    with pytest.raises(ValueError, match=r"expected an absolute folder or s3://bucket/folder"):
        StorageConfig(root=root)


@pytest.mark.parametrize("root", ["s3://bucket", "s3://bucket/folder", "/data", "~/data", "runs", "a:b/c"])
def test_a_root_that_is_a_location_is_taken(root: str):
    assert StorageConfig(root=root).root == root
