import pytest

from hydra_ray.config import load_config
from hydra_ray.errors import ConfigError


def test_without_a_gate_any_prompts_may_be_drafts(path):
    config = load_config(path, ["drafts.prompts=[]", "answers.is_gated=false"])
    assert config.drafts.prompts == ()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["adapter.base.training_heads=networks"], "training_heads networks needs holdout_fraction=0"),
        (["adapter.labels=published"], "labels published needs has_plain_features=false"),
        (
            ["adapter.labels=published", "adapter.has_plain_features=false"],
            "adapter.labels published needs answers.is_gated=false",
        ),
        (["answers.has_expected_ratings=false"], "has_expected_ratings=false needs is_gated=false"),
    ],
)
def test_what_the_published_method_needs_is_said(path, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(path, overrides)
