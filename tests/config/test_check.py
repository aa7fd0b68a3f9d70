"""Wrong settings: each is named, with what to do."""

from pathlib import Path

import pytest

from hydra_ray.config import load_config
from hydra_ray.errors import ConfigError

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
