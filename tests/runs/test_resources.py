import pytest
from pydantic import ValidationError

from hydra_ray.config import PlacementConfig
from hydra_ray.runs.resources import Bundle, core_bundle, encoder_bundle, generator_bundle, step_bundle, train_bundle

KINDS = {"generator": generator_bundle, "train": train_bundle, "step": step_bundle}


def test_by_default_work_reserves_cpus_and_runs_anywhere():
    placement = PlacementConfig()
    options = [kind(placement).options() for kind in (generator_bundle, train_bundle, step_bundle, core_bundle)]
    assert options == [{"num_cpus": cpus} for cpus in (1, 0.25, 0.5, 1)]


def test_steps_and_a_generator_fit_on_two_cores_together():
    placement = PlacementConfig()
    assert generator_bundle(placement).cpus + 2 * step_bundle(placement).cpus <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_custom_resources_apply_to_their_kind_of_work_alone(kind: str):
    labels, resources = {"ray.io/market-type": "!spot"}, {"licence": 1.0}
    placement = PlacementConfig.model_validate({f"{kind}_labels": labels, f"{kind}_resources": resources})
    for name, bundle_of in KINDS.items():
        options = bundle_of(placement).options()
        is_own = name == kind
        assert (options.get("label_selector"), options.get("resources")) == (
            (labels, resources) if is_own else (None,) * 2
        )


def test_a_generator_over_several_gpus_is_one_bundle():
    bundle = generator_bundle(PlacementConfig(generator_gpus=4, generator_cpus=8))
    assert bundle == Bundle(cpus=8, gpus=4)
    assert bundle.amounts() == {"CPU": 8, "GPU": 4}


@pytest.mark.parametrize("selector", ["spot", "!spot", "in(a)", "in(a, b)", "!in(a,b)", "A-1.b_2"])
def test_what_ray_takes_as_a_label_selector_is_taken(selector: str):
    from ray._private.label_utils import validate_label_selector

    assert not validate_label_selector({"kind": selector})
    PlacementConfig(step_labels={"kind": selector})


@pytest.mark.parametrize("selector", ["", "-spot", "spot_", "in()", "in(a,", "!!a", "a b", "a" * 64])
def test_what_ray_refuses_as_a_label_selector_is_refused_before_anything_starts(selector: str):
    from ray._private.label_utils import validate_label_selector

    assert selector == "" or validate_label_selector({"kind": selector})
    with pytest.raises(ValidationError, match="step_labels"):
        PlacementConfig(step_labels={"kind": selector})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"generator_gpus": 2.5}, "whole number"),
        ({"encoder_gpus": 2}, "less than or equal to 1"),
        ({"encoder_resources": {"CPU": 1}}, "CPU are no custom resources"),
        ({"step_resources": {"GPU": 1}}, "GPU are no custom resources"),
        ({"train_resources": {"licence": 0}}, "greater than 0"),
    ],
)
def test_what_cannot_be_reserved_is_refused(setting: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        PlacementConfig.model_validate(setting)


def test_an_encoder_is_placed_as_other_work_unless_it_reserves_a_gpu():
    labels = {"step_labels": {"kind": "cpu"}, "encoder_labels": {"kind": "gpu"}, "encoder_resources": {"licence": 1.0}}
    assert encoder_bundle(PlacementConfig.model_validate(labels)) == Bundle(cpus=1, labels={"kind": "cpu"})
    with_gpu = encoder_bundle(PlacementConfig.model_validate({**labels, "encoder_gpus": 0.25}))
    assert with_gpu.options() == {
        "num_cpus": 1,
        "num_gpus": 0.25,
        "resources": {"licence": 1.0},
        "label_selector": {"kind": "gpu"},
    }
