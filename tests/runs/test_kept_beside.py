"""Which idle copies of the generator may stay beside other work."""

from collections.abc import Iterator, Mapping
from itertools import product
from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import PlacementConfig
from hydra_ray.runs.resources import (
    Bundle,
    Demand,
    Node,
    Workers,
    fits_beside,
    generator_bundle,
    kept_beside,
    other_work,
)

TWO_CORES = Node(name="machine", amounts={"CPU": 2.0})


def on(node: Node, num_copies: int, placement: PlacementConfig, work: str) -> int:
    """Return how many of the copies on one node stay beside some work."""
    kept = kept_beside(
        generator_bundle(placement),
        {node.name: num_copies},
        other_work(work, placement),  # pyright: ignore[reportArgumentType]
        [node],
    )
    return kept[node.name]


@pytest.mark.parametrize("work", ["driver", "steps", "encoder", "encoders", "training", "trials"])
def test_on_two_cores_a_copy_that_reserves_one_stays_beside_everything(work: str):
    assert on(TWO_CORES, 1, PlacementConfig(), work) == 1


@pytest.mark.parametrize("work", ["steps", "encoders", "training", "trials"])
def test_a_copy_that_reserves_all_cores_leaves_for_everything(work: str):
    assert on(TWO_CORES, 1, PlacementConfig(generator_cpus=2), work) == 0


def test_gpus_that_encoders_and_training_reserve_are_free_for_them():
    node = Node(name="gpus", amounts={"CPU": 32.0, "GPU": 8.0})
    placement = PlacementConfig(
        generator_gpus=1, generator_actors=8, encoder_gpus=1, encoder_actors=6, train_workers=2, train_gpus_per_worker=1
    )
    assert on(node, 8, placement, "encoders") == 2
    assert on(node, 8, placement, "training") == 6
    assert on(node, 8, placement, "steps") == 8
    shared = placement.model_copy(update={"encoder_gpus": 0.25})
    assert on(node, 8, shared, "encoders") == 6


def test_copies_on_nodes_where_the_work_may_not_run_stay():
    spot = Node(name="spot", amounts={"CPU": 2.0}, labels={"market": "spot"})
    own = Node(name="own", amounts={"CPU": 2.0})
    placement = PlacementConfig(generator_cpus=2, step_labels={"market": "!spot"})
    demands = other_work("encoders", placement)
    kept = kept_beside(generator_bundle(placement), {"spot": 1, "own": 1}, demands, [spot, own])
    assert kept == {"spot": 1, "own": 0}


@pytest.mark.parametrize(
    ("num_cpus", "placement", "work", "expected"),
    [
        (2, {}, "encoder", True),
        (2, {"generator_cpus": 2}, "encoder", False),
        (2, {"generator_actors": 2}, "encoder", False),
        (3, {"generator_actors": 2}, "encoder", True),
        (4, {"encoder_actors": 3}, "encoders", True),
        (4, {"encoder_actors": 3, "generator_actors": 2}, "encoders", False),
        (8, {}, "trials", True),
        (8, {"generator_gpus": 1, "generator_actors": 2}, "encoder", True),
        (8, {"generator_gpus": 1, "generator_actors": 3}, "encoder", False),  # a copy still waits for its GPU
        (8, {"generator_gpus": 1, "generator_actors": 2, "encoder_gpus": 0.5}, "encoders", False),
        (8, {"generator_gpus": 1, "generator_actors": 1, "encoder_gpus": 0.5}, "encoders", True),
    ],
)
def test_work_is_done_beside_a_busy_generator_only_where_both_have_room(
    num_cpus: float, placement: dict[str, float], work: Workers, expected: bool
):
    config, node = PlacementConfig.model_validate(placement), Node(name="a", amounts={"CPU": num_cpus, "GPU": 2.0})
    copy = generator_bundle(config)
    assert fits_beside(copy, config.generator_actors, other_work(work, config), [node]) is expected


def test_copies_that_are_spread_over_nodes_leave_room_where_there_is_some():
    placement = PlacementConfig(generator_gpus=1, generator_actors=4, step_labels={"kind": "!gpu"})
    nodes = [Node(name=f"gpu{each}", amounts={"CPU": 4.0, "GPU": 2.0}, labels={"kind": "gpu"}) for each in range(2)]
    demands = other_work("encoder", placement)
    own = Node(name="cpu", amounts={"CPU": 2.0})
    assert fits_beside(generator_bundle(placement), 4, demands, [*nodes, own])


@st.composite
def situations(draw: st.DrawFn) -> tuple[Bundle, dict[str, int], Demand, list[Node]]:
    nodes = [
        Node(name=str(number), amounts={"CPU": draw(st.integers(1, 6)), "GPU": draw(st.integers(0, 3))})
        for number in range(draw(st.integers(1, 3)))
    ]
    copy = Bundle(cpus=draw(st.sampled_from([0.5, 1, 2])), gpus=draw(st.sampled_from([0, 0.5, 1])))
    empty = Bundle(cpus=0)
    copies = {node.name: int(min(node.room(copy, empty, 0), draw(st.integers(0, 3)))) for node in nodes}
    demand = Demand(
        bundle=Bundle(cpus=draw(st.sampled_from([0.25, 1, 2])), gpus=draw(st.sampled_from([0, 0.25, 1]))),
        number=draw(st.sampled_from([1, 2, 5, inf])),
        is_elastic=draw(st.booleans()),
    )
    return copy, copies, demand, nodes


@given(situation=situations())
def test_there_is_room_and_no_other_choice_keeps_more(situation: tuple[Bundle, dict[str, int], Demand, list[Node]]):
    copy, copies, demand, nodes = situation

    def room(kept: Mapping[str, int]) -> float:
        return sum(node.room(demand.bundle, copy, kept[node.name]) for node in nodes)

    def choices() -> Iterator[dict[str, int]]:
        for numbers in product(*(range(number + 1) for number in copies.values())):
            yield dict(zip(copies, numbers, strict=True))

    wanted = min(demand.number, room(dict.fromkeys(copies, 0)))
    wanted = ceil(wanted / 2) if demand.is_elastic else wanted
    kept = kept_beside(copy, copies, [demand], nodes)
    assert all(kept[name] <= number for name, number in copies.items())
    assert room(kept) >= wanted
    most = max(sum(each.values()) for each in choices() if room(each) >= wanted)
    assert sum(kept.values()) >= most - 1  # the greedy choice may miss one where several have to go together
