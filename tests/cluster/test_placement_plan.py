"""The dry plan against a plain enumeration of placements, and against the scheduler of Ray's own autoscaler."""

from itertools import product
from math import inf

import pytest
from builders import run_config
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.cluster.node_types import NodeType
from hydra_ray.cluster.placement_plan import blocking_copies, capacity, placement_findings, room, stage_needs
from hydra_ray.runs.resources import Bundle
from hydra_ray.stages.plan import plan_run

SPOT = {"ray.io/market-type": "spot"}
SELECTORS = {
    "spot": (1, ["spot"]),
    "other": (1, ["other"]),
    "!spot": (2, ["spot"]),
    "in(spot, on-demand)": (1, ["spot", "on-demand"]),
    "!in(spot,other)": (2, ["spot", "other"]),
}
"""Label selectors, and the operator (1: in, 2: not in) and values of each in Ray's own messages."""
HEAD = NodeType(name="head", resources={"CPU": 0}, is_head=True)
CPU = NodeType(name="cpu", resources={"CPU": 16}, labels={"ray.io/market-type": "on-demand"}, count=2)
_ENCODING = (
    "reranker.features",
    "adapter.labeller",
    "adapter.own",
    "adapter.codes",
    "adapter.examples",
    "adapter.features",
)
GPU = NodeType(name="gpu", resources={"CPU": 8, "GPU": 1}, labels=SPOT, count=3)


def node(cpus: float, gpus: float = 0, count: int = 1, **labels: str) -> NodeType:
    return NodeType(name=f"{cpus}-{gpus}", resources={"CPU": cpus, "GPU": gpus}, count=count, labels=labels)


def problems(nodes: list[NodeType], **placement: object) -> dict[str, str]:
    """What is wrong, and why, by stage and work."""
    found = placement_findings(run_config(placement=dict(placement)), nodes)
    return {finding.name: finding.value + finding.remedy for finding in found if finding.is_problem}


def test_every_stage_of_a_plan_but_the_drivers_own_is_in_it(tmp_path):
    config = run_config(str(tmp_path))
    names = [stage.name for stage in plan_run(config).stages()]
    assert list(stage_needs(config)) == [name for name in names if name not in ("users", "report")]


def test_the_defaults_fit_on_two_cores_and_not_on_one():
    assert problems([node(2)]) == {}
    assert {name.split(": ")[1] for name in problems([node(1)])} == {"together"}


def test_a_tensor_parallel_generator_needs_its_gpus_on_one_node():
    found = problems([HEAD, CPU, GPU], generator_gpus=2)
    assert set(found) == {f"{stage}: generator" for stage in ("profiles", "probes", "drafts")}
    assert "needs 2 GPU on one node; the largest has 1" in found["probes: generator"]
    assert problems([HEAD, CPU, GPU.model_copy(update={"resources": {"CPU": 8, "GPU": 2}})], generator_gpus=2) == {}


def test_labels_that_no_node_has_are_told():
    found = problems([HEAD, CPU], generator_labels=SPOT)
    assert "no node has the labels" in found["drafts: generator"]
    assert problems([HEAD, CPU, GPU], generator_labels=SPOT, generator_gpus=1) == {}


def test_steps_may_be_kept_off_spot_nodes():
    assert problems([HEAD, CPU, GPU], step_labels={"ray.io/market-type": "!spot"}, generator_gpus=1) == {}
    assert "answers: steps" in problems([HEAD, GPU], step_labels={"ray.io/market-type": "!spot"})


def test_encoders_with_a_gpu_go_where_their_labels_are_and_share_it():
    labels = {"step_labels": {"ray.io/market-type": "!spot"}, "encoder_labels": SPOT, "encoder_gpus": 0.5}
    assert problems([HEAD, CPU, GPU], **labels) == {}
    assert "1 GPU" not in str(found := problems([HEAD, CPU], encoder_gpus=0.5))
    assert set(found) == {f"{stage}: encoder" for stage in _ENCODING}
    config = run_config(users={"num_buckets": 9}, placement={"encoder_gpus": 0.5, "encoder_actors": 8})
    (line,) = [each for each in placement_findings(config, [GPU]) if each.name == "adapter.features: encoder"]
    assert "room for 6, the others wait" in line.remedy


def test_the_retriever_s_encoder_is_held_by_encoders_and_not_by_steps():
    retrieve = {"method": "dense", "encoder": "some/encoder"}
    steps, generator, encoder = stage_needs(run_config(retrieve=retrieve, placement={"encoder_gpus": 1}))["probes"]
    assert (steps.work, generator.work, encoder.work) == ("steps", "generator", "encoder")
    assert encoder.bundle.gpus == 1
    assert encoder.contents.models == {"some/encoder"}
    assert not steps.contents.models


def test_training_workers_must_all_run_at_once():
    assert problems([GPU], train_workers=3, train_gpus_per_worker=1) == {}
    found = problems([GPU], train_workers=4, train_gpus_per_worker=1)
    assert "4 must run at once, and there is room for 3" in found["adapter.base: training"]


def test_copies_that_find_no_room_wait_and_that_is_no_problem():
    config = run_config(users={"num_buckets": 9}, placement={"generator_actors": 8, "generator_gpus": 1})
    (line,) = [each for each in placement_findings(config, [CPU, GPU]) if each.name == "probes: generator"]
    assert not line.is_problem
    assert "room for 3, the others wait" in line.remedy


def test_copies_that_may_take_every_core_are_a_deadlock():
    buckets = {"num_buckets": 4}
    config = run_config(users=buckets, placement={"generator_actors": 4})
    names = {each.name for each in placement_findings(config, [node(2, count=2)]) if each.is_problem}
    assert names == {"profiles: together", "probes: together", "drafts: together"}
    config = run_config(users=buckets, placement={"generator_actors": 3})
    assert not [each for each in placement_findings(config, [node(2, count=2)]) if each.is_problem]


def test_a_head_that_may_be_taken_away_is_a_problem():
    assert "driver" in problems([node(4).model_copy(update={"is_head": True, "labels": SPOT})])


@st.composite
def small_clusters(draw: st.DrawFn) -> tuple[Bundle, Bundle, list[NodeType], int]:
    """Bundles of a step and of copies, single nodes, and how many copies there are."""
    step = Bundle(cpus=0.5, labels=draw(st.sampled_from([{}, {"kind": "a"}])))
    copies = Bundle(
        cpus=draw(st.sampled_from([0, 0.5, 1, 1.5])),
        gpus=draw(st.sampled_from([0, 1])),
        labels=draw(st.sampled_from([{}, {"kind": "!a"}, {"kind": "in(a, b)"}])),
    )
    nodes = [
        node(draw(st.sampled_from([0, 1, 2])), draw(st.sampled_from([0, 1, 2])), kind=draw(st.sampled_from("abc")))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return step, copies, nodes, draw(st.integers(1, 4))


def free_room(bundle: Bundle, on: NodeType, copies: Bundle, num_copies: int) -> bool:
    """Whether `bundle` fits beside `num_copies`, said plainly."""
    free = {name: on.amount(name) - num_copies * copies.amounts().get(name, 0) for name in ("CPU", "GPU")}
    return on.matches(bundle.labels) and free["CPU"] >= bundle.cpus and free["GPU"] >= bundle.gpus


@given(small_clusters())
def test_a_deadlock_is_found_exactly_where_copies_can_leave_no_room_for_a_step(drawn):
    step, copies, nodes, num_copies = drawn
    allowed = [
        [count for count in range(num_copies + 1) if count == 0 or free_room(copies, each, copies, count - 1)]
        for each in nodes
    ]
    placements = [counts for counts in product(*allowed) if sum(counts) <= num_copies]
    is_stuck = any(
        not any(free_room(step, each, copies, count) for each, count in zip(nodes, counts, strict=True))
        for counts in placements
    )
    running = min(num_copies, capacity(copies, nodes))
    assert (sum(blocking_copies(step, copies, each) for each in nodes) <= running) == is_stuck


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("gpus", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_room_is_what_rays_own_autoscaler_finds(selector: str, gpus: int, count: int):
    bundle = Bundle(cpus=1, gpus=gpus, labels={"ray.io/market-type": selector})
    nodes = [CPU, GPU, node(4, 2)]
    assert placed_by_ray(bundle, nodes, count) == min(count, capacity(bundle, nodes))


def placed_by_ray(bundle: Bundle, nodes: list[NodeType], count: int) -> float:
    """How many of `count` bundles Ray's autoscaler can place on nodes that it may start."""
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    types = {
        each.name: NodeTypeConfig(
            name=each.name,
            min_worker_nodes=0,
            max_worker_nodes=each.count,
            resources=dict(each.resources),
            labels=dict(each.labels),
        )
        for each in nodes
    }
    labels = [[(key, *SELECTORS[selector]) for key, selector in bundle.labels.items()]]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(bundle.amounts(), label_selectors=labels) for _ in range(count)]
        ),
    )
    reply = ResourceDemandScheduler().schedule(request)
    return count - len(reply.infeasible_resource_requests)


def test_a_bundle_that_reserves_nothing_always_fits():
    assert room(Bundle(cpus=0), node(0)) == inf


def test_copies_of_the_generator_without_a_part_are_a_problem():
    nodes = [NodeType(name="node", resources={"CPU": 16}, is_head=True)]
    config = run_config(placement={"generator_actors": 8}, users={"num_buckets": 4})
    (wrong,) = [finding for finding in placement_findings(config, nodes) if finding.is_problem]
    assert wrong.name == "copies"
    assert wrong.remedy.startswith("set users.num_buckets=8")
    many = run_config(placement={"generator_actors": 8}, users={"num_buckets": 64})
    assert not any(finding.is_problem for finding in placement_findings(many, nodes))
    (wrong,) = [finding for finding in placement_findings(many, nodes, num_parts=3) if finding.is_problem]
    assert wrong.remedy.startswith("set placement.generator_actors=3")
