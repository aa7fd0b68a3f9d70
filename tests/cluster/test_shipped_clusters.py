"""What a run needs of every file that starts a cluster, and what stands in none of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from builders import run_config
from manifests import RAY_CLUSTER, RAY_JOB
from ray_up import RAY_UP

from hydra_ray.cluster.node_types import read_node_types
from hydra_ray.cluster.placement_plan import placement_findings
from hydra_ray.config import load_config

ROOT = Path(__file__).parents[2]
CLUSTERS = [RAY_UP, RAY_CLUSTER, RAY_JOB]
GPU_PLACEMENT = {"generator_actors": 8, "generator_gpus": 1, "generator_cpus": 4}


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "placement",
    [
        {},
        GPU_PLACEMENT,
        {"generator_actors": 2, "generator_gpus": 4, "train_workers": 4, "train_gpus_per_worker": 1, "zero_stage": 2},
        {
            **GPU_PLACEMENT,
            "generator_labels": {"ray.io/market-type": "spot"},
            "step_labels": {"ray.io/market-type": "!spot"},
        },
    ],
    ids=["cpu", "gpus", "tensor-parallel", "labels"],
)
def test_runs_of_every_kind_fit_on_the_shipped_clusters(path: Path, placement: dict[str, Any]):
    config = run_config(placement=placement, users={"num_buckets": 64})
    assert not [str(each) for each in placement_findings(config, read_node_types(str(path))) if each.is_problem]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_shipped_configurations_fit_on_the_shipped_clusters(path: Path):
    config = load_config(ROOT / "jobs" / "configs" / "demo.yaml")
    assert not [str(each) for each in placement_findings(config, read_node_types(str(path))) if each.is_problem]


def test_no_file_that_starts_a_cluster_has_a_key():
    for path in [RAY_UP, *(ROOT / "cluster").rglob("*.*")]:
        assert not re.search(r"aws_secret|AKIA|secret_?access", path.read_text(), re.IGNORECASE), path
