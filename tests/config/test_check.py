"""Wrong settings: each is named, with what to do."""

from pathlib import Path

import pytest

from hydra_ray.config import check_config, load_config
from hydra_ray.errors import ConfigError
from hydra_ray.lamp.tasks import task_of

DEMO = Path(__file__).parents[2] / "jobs" / "configs" / "demo.yaml"


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
        ("users.num_buckets=atuo", "got 'atuo', expected a whole number or auto; did you mean auto"),
        ("reranker.base.trainable_layers=-1", "got -1, expected at least 0 or all"),
        ("reranker.heads.kinds=[]", "kinds must not be empty"),
        ("reranker.heads.ranks=[]", "ranks must not be empty"),
    ],
)
def test_a_wrong_override_is_a_config_error_that_names_it(path, override, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load_config(path, [override])


def test_all_wrong_settings_are_named_at_once_with_the_file(path):
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["probes.seed=x", "drafts.typo=1"])
    for part in (str(path), "probes.seed", "drafts.typo"):
        assert part in str(caught.value)


def test_labels_that_yaml_reads_as_booleans_are_told_to_be_quoted():
    described = "{name: t, kind: classification, instruction: Which team, labels: [yes, no]}"
    with pytest.raises(ConfigError) as told:
        load_config(DEMO, [f"lamp.task={described}"])
    _, *lines = str(told.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["lamp.task.labels.0", "lamp.task.labels.1"]
    assert all("quote it" in line for line in lines)


TASK = "{name: t, kind: classification, instruction: Which, labels: [a, b]}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generator.api_key_env=KEY"], "there is no such setting; did you mean generator.api.api_key_env?"),
        (["generator.learning_rate=1"], "did you mean reranker.base.learning_rate or adapter.base.learning_rate?"),
        (["drafts.lerning_rate=1"], "did you mean reranker.base.learning_rate or adapter.base.learning_rate?"),
        (["num_samples=4"], "num_samples: there is no such setting; did you mean drafts.num_samples?"),
        (["drafts.seed=4"], "drafts.seed: there is no such setting, only candidates"),
        ([f"lamp.task={TASK}", "lamp.task.label=[a]"], "there is no such setting; did you mean lamp.task.labels?"),
        ([f"lamp.task={TASK}", "lamp.task.labels=[yes, 1, 1.0, null]"], "labels.3: got null, expected text; YAML"),
        ([f"lamp.task={TASK}", "lamp.task.labels=[a, .inf]"], "lamp.task.labels.1: got .inf, expected text; YAML"),
        ([f"lamp.task={TASK}", "lamp.task.labels=[a, 07]"], "'07' may be octal or decimal"),
        ([f"lamp.task={TASK}", "lamp.task.kind=clasification"], "did you mean classification?"),
        ([f"lamp.task={TASK}", "lamp.task.kind=rating"], "lamp.task: labels of the kind rating are numbers, got 'a'"),
        (["lamp.task={}"], "lamp.task.name: it is missing"),
        (["generator.engine=vlm"], "generator.engine: got 'vlm', expected vllm, openai"),
        (["generator.engine=vlm"], "; did you mean vllm?"),
        (["drafts.prompts=[zero_sot]"], "drafts.prompts.0: got 'zero_sot', expected zero_shot, random_k"),
        (["drafts.prompts=rag_k"], "drafts.prompts: got 'rag_k', expected a list: write [rag_k]"),
        (["drafts.num_samples=yes"], "drafts.num_samples: got true, expected a number"),
        (["drafts.num_samples=4.5"], "drafts.num_samples: got 4.5, expected a whole number"),
        (["drafts.num_samples=many"], "drafts.num_samples: got 'many', expected a whole number"),
        (["drafts.num_samples=0"], "drafts.num_samples: got 0, expected more than 0"),
        (["drafts.temperatures=[on]"], "drafts.temperatures: got true, expected a number"),
        (["drafts.temperatures=[]"], "drafts.temperatures: got a list, expected at least 1 in it"),
        (["answers.is_gated=maybe"], "answers.is_gated: got 'maybe', expected true or false"),
        (["reranker.base.learning_rate=.nan"], "reranker.base.learning_rate: got .nan, expected a finite number"),
        (["generator.api={base_url: 'http://h', model: m, prompt_price: .inf}"], "got .inf, expected a finite number"),
        (["placement.generator_resources={a: yes}"], "placement.generator_resources: got true, expected a number"),
        (["placement.generator_labels={'a b': c}"], "placement.generator_labels.a b: expected text of the form"),
        (["lamp=5"], "lamp: got 5, expected a mapping of settings"),
        (["storage="], "storage: got null, expected a mapping of settings"),
        (["run=2024"], "run: got 2024, expected text; YAML reads"),
        (["run=a b"], "run: expected letters, digits and any of _ . + -, a letter or digit first"),
        (["report.seed=-1"], "report.seed: got -1, expected at least 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_words_of_yaml_with_what_may_be_meant(path, overrides, message):
    with pytest.raises(ConfigError) as told:
        load_config(path, overrides)
    assert message in str(told.value)


@pytest.mark.parametrize("key", ["batch", "thinking_tokens", "chat_template_kwargs", "api.omit_fields", "engine"])
def test_a_secret_in_the_place_of_any_value_is_not_told(path, key):
    with pytest.raises(ConfigError) as told:
        load_config(path, [f"generator.{key}=sk-hunter2"])
    assert "hunter2" not in str(told.value)


def test_a_secret_in_the_place_of_a_name_is_not_told(path):
    settings = (
        "storage.endpoint=https://user:hunter2@host",
        "generator.api={base_url: 'http://h', model: m, api_key_env: hunter2-1}",
    )
    for setting in settings:
        with pytest.raises(ConfigError) as told:
            load_config(path, [setting])
        assert "expected text of the form" in str(told.value)
        assert "hunter2" not in str(told.value)


def test_a_number_beyond_64_bits_is_refused_wherever_it_comes_from(settings):
    with pytest.raises(ConfigError, match=r"probes\.seed: got a number beyond 64 bits"):
        check_config({**settings, "probes": {"seed": 2**63}}, "here")
    with pytest.raises(ConfigError, match=r"reranker\.heads\.ranks: got a number beyond 64 bits"):
        check_config({**settings, "reranker": {"base": {"encoder": "n"}, "heads": {"ranks": [2**63]}}}, "here")


def test_a_misspelled_built_in_task_is_told_with_the_one_that_is_meant(path):
    with pytest.raises(ConfigError, match=r"did you mean LaMP_2M\?"):
        task_of(load_config(path, ["lamp.task=LaMP_2m"]).lamp)


@pytest.mark.parametrize("settings", [[], None, "text", 5])
def test_settings_that_are_no_mapping_are_a_config_error(settings):
    with pytest.raises(ConfigError, match=r"run\.json must be a mapping of settings, got"):
        check_config(settings, "run.json")


def test_a_long_value_is_cut_in_the_message_about_it(path):
    with pytest.raises(ConfigError) as told:
        load_config(path, [f"lamp.task={TASK}", f"lamp.task.sentences.query={'x' * 5000}"])
    assert "lamp.task.sentences: query is 'xxx" in str(told.value)
    assert len(str(told.value)) < 1000
