from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.seeds import rng_of, seed_of


@given(seed=st.integers(0, 2**31), names=st.lists(st.text(), max_size=3))
def test_a_seed_depends_on_nothing_but_its_names(seed: int, names: list[str]):
    assert seed_of(seed, *names) == seed_of(seed, *names)
    assert 0 <= seed_of(seed, *names) < 2**63


def test_different_names_give_different_seeds():
    assert len({seed_of(0, "a", "b"), seed_of(0, "ab"), seed_of(0, "a", "b", ""), seed_of(1, "a", "b")}) == 4


def test_a_generator_repeats_itself():
    assert rng_of(3, "x").random() == rng_of(3, "x").random()
