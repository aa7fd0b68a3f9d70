from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import user

from hydra_ray.forecast.user_sample import Estimate, UserSample, sample_users
from hydra_ray.rows import User, to_table
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.storage import write_part

NUM_BUCKETS, NUM_USERS = 4, 40


@pytest.fixture
def users(tmp_path: Path) -> Stage:
    """A users stage whose parts are committed."""
    stage = Stage(name="users", fingerprint="0", root=str(tmp_path), num_buckets=NUM_BUCKETS)
    people = [replace(user(), user_id=str(number)) for number in range(NUM_USERS)]
    for bucket in range(NUM_BUCKETS):
        own = [each for each in people if bucket_of(each.user_id, NUM_BUCKETS, "key") == bucket]
        write_part(stage.part("users", bucket), to_table(own, User), {"users": len(own)})
    return stage


def ids(sample: UserSample) -> list[str]:
    return [each.user_id for own in sample.users.values() for each in own]


def sample_of(size: int, whole: int) -> UserSample:
    return UserSample(users={0: [user()] * size}, counters={"users": whole})


def test_few_users_are_all_looked_at_each_in_its_bucket(users: Stage):
    sample = sample_users(users, NUM_USERS)
    assert sorted(ids(sample)) == sorted(map(str, range(NUM_USERS)))
    assert sample.size == sample.num_users == NUM_USERS
    for bucket, own in sample.users.items():
        assert all(bucket_of(each.user_id, NUM_BUCKETS, "key") == bucket for each in own)


def test_of_many_users_a_sample_is_looked_at_and_the_same_one_again(users: Stage):
    sample = sample_users(users, 7)
    assert len(set(ids(sample))) == sample.size == 7
    assert sample.num_users == NUM_USERS
    assert ids(sample_users(users, 7)) == ids(sample)
    assert set(ids(sample)) < set(ids(sample_users(users, 20)))


def test_what_all_users_have_is_added_up_without_an_interval():
    assert sample_of(3, 3).total(np.array([1.0, 2.0, 6.0])) == Estimate(value=9, low=9, high=9)


def test_a_sample_is_scaled_to_all_users():
    total = sample_of(4, 100).total(np.array([5.0, 5.0, 5.0, 5.0]))
    assert total == Estimate(value=500, low=500, high=500)
    assert sample_of(0, 0).total(np.zeros(0)) == Estimate(value=0, low=0, high=0)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 100.0, 1000)
    found = [sample_of(100, 1000).total(rng.choice(values, 100, replace=False)) for _ in range(400)]
    held = np.mean([each.low <= values.sum() <= each.high for each in found])
    assert 0.91 < held < 0.98


def test_estimates_of_the_same_users_add_up_with_their_bounds():
    total = Estimate(value=2, low=1, high=4) + Estimate(value=3, low=2, high=5).scaled(10)
    assert total == Estimate(value=32, low=21, high=54)
