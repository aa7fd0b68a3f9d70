import numpy as np
import pytest
from group_tables import objective, random_table
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.scorer.linear import objective as objectives
from hydra_ray.scorer.linear.losses import LOSSES
from hydra_ray.scorer.linear.objective import Objective, chunks_of

VARIANCES = np.array([0.5, 2.0, 1.0])
loss_of_name = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def objective_of_all(loss, seed=0):
    """Two users in one chunk, one of them padded; table, offsets, weights and objective."""
    rng = np.random.default_rng(seed)
    table = random_table(rng, [3, 4], is_soft=True)
    offsets, weights = rng.normal(size=len(table.targets_N)), rng.random(7)
    (rows,) = chunks_of(table, table.features_ND, offsets)
    return table, offsets, weights, Objective.of(rows, loss, np.sqrt(VARIANCES)[None], weights)


def finite_difference(function, code, axis):
    step = np.eye(3)[axis] * 1e-5
    return (function(code + step) - function(code - step)) / 2e-5


@loss_of_name
def test_losses_and_gradients_are_those_of_a_plain_loop(loss):
    table, offsets, weights, found = objective_of_all(loss)
    codes = np.random.default_rng(1).normal(size=(2, 3))
    state = found.state(codes)
    gradients = found.row_gradients(state) + codes
    for place, user in enumerate(found.rows.users):

        def plain(code, user=user):
            return objective(code * np.sqrt(VARIANCES), table, user, offsets, VARIANCES, weights, loss.name)

        np.testing.assert_allclose(state.losses_U[place], plain(codes[place]))
        expected = [finite_difference(plain, codes[place], axis) for axis in range(3)]
        np.testing.assert_allclose(gradients[place], expected, atol=1e-6)


@loss_of_name
def test_hessians_their_products_and_their_diagonals_agree(loss):
    _, _, _, found = objective_of_all(loss)
    state = found.state(np.random.default_rng(2).normal(size=(2, 3)))
    hessians = found.row_hessians(state)
    for axis in range(3):
        expected = [
            finite_difference(lambda code: found.row_gradients(found.state(code)), state.codes_UR, axis)[place]
            for place in range(2)
        ]
        np.testing.assert_allclose(hessians[:, axis], expected, atol=1e-6)
        axes = np.tile(np.eye(3)[axis], (2, 1))
        np.testing.assert_allclose(found.row_products(found.score_changes(axes), state), hessians[:, axis], atol=1e-10)
    diagonals = np.diagonal(hessians, axis1=1, axis2=2)
    np.testing.assert_allclose(found.row_diagonals(state), diagonals, atol=1e-10)
    assert (diagonals <= found.bounds_UR + 1e-12).all()


@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    elements=st.sampled_from([1, 60, 400_000]),
)
def test_every_row_is_in_one_chunk_and_at_most_half_of_a_chunk_is_padding(counts, seed, elements):
    table = random_table(np.random.default_rng(seed), counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "CHUNK_ELEMENTS", elements)
        chunks = list(chunks_of(table, table.features_ND, np.arange(len(table.targets_N)) + 1.0))
    users = np.concatenate([[], *(chunk.users for chunk in chunks)])
    assert sorted(users) == np.flatnonzero(counts).tolist()
    rows = np.concatenate([[], *(chunk.offsets_UP[chunk.groups_UP >= 0] for chunk in chunks)])
    assert sorted(rows) == (np.arange(len(table.targets_N)) + 1).tolist()
    for chunk in chunks:
        is_padding = chunk.groups_UP < 0
        assert is_padding.mean() < 0.5
        assert not chunk.offsets_UP[is_padding].any()
        assert not chunk.inputs_UPR[is_padding].any()
        assert len(chunk.users) == 1 or chunk.inputs_UPR.size <= elements
