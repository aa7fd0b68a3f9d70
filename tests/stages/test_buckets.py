from pathlib import Path
from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.lamp.seen_users import SeenUsers
from hydra_ray.runs.run_folder import run_folder_of, write_config
from hydra_ray.stages.buckets import advised_number, with_num_buckets
from hydra_ray.stages.plan import plan_run

PROBES, DRAFTS = {"num_records": 4, "num_pseudo_queries": 4}, {"num_records": 4, "num_pseudo_queries": 4}


def seen_users(num_users: int, num_records: int = 20) -> SeenUsers:
    return SeenUsers(num_users=num_users, num_records=[num_records])


def auto(root: str = "/tmp/root", **sections: dict[str, Any]) -> RunConfig:
    return run_config(root, users={"num_buckets": "auto"}, probes=PROBES, drafts=DRAFTS, **sections)


@pytest.mark.parametrize("num_copies", [1, 3, 64])
@pytest.mark.parametrize("num_users", [1, 36, 1_000, 100_000, 1_000_000])
def test_parts_are_for_all_copies_and_hold_a_bounded_amount_of_work(num_users: int, num_copies: int):
    config = auto(placement={"generator_actors": num_copies})
    number = advised_number(config, seen_users(num_users))
    assert number & (number - 1) == 0
    assert number >= min(2 * num_copies, num_users)
    assert num_users / number <= 500
    assert number < 2 * max(num_users, 1)


def test_users_of_many_requests_are_divided_further():
    few, many = (advised_number(auto(), seen_users(20_000, num_records)) for num_records in (1, 100))
    assert many > few


def test_without_a_generator_users_alone_count():
    config = auto(generator={"engine": "none", "model": ""}, placement={"encoder_actors": 1})
    assert advised_number(config, seen_users(100_000)) == 256


def test_a_run_has_the_number_for_its_users_and_keeps_it(tmp_path: Path):
    config = auto(str(tmp_path))
    plan = plan_run(config)
    assert plan.config.num_buckets == plan.users.num_buckets == 2
    write_config(run_folder_of(str(tmp_path), config.run), plan.config)
    placement = config.placement.model_copy(update={"generator_actors": 6})
    moved = config.model_copy(update={"placement": placement})
    assert plan_run(moved).config.num_buckets == 2
    assert plan_run(moved.model_copy(update={"run": "another"})).config.num_buckets == 16


def test_a_child_run_has_the_number_of_its_parent(tmp_path: Path):
    parent = run_config(str(tmp_path), users={"num_buckets": 7})
    write_config(run_folder_of(str(tmp_path), parent.run), parent)
    child = auto(str(tmp_path)).model_copy(update={"taught_by": parent.run, "run": "child"})
    assert with_num_buckets(child).num_buckets == 7


def test_users_that_cannot_be_read_are_named(tmp_path: Path):
    missing = str(tmp_path / "nobody.jsonl")
    config = auto(str(tmp_path), lamp={"planted": None, "users_files": [missing]})
    with pytest.raises(InputError, match=r"nobody\.jsonl"):
        with_num_buckets(config)
