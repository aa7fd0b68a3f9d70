from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from planted_features import NUM_CANDIDATES, plant
from planted_heads import head_job, prepare

from hydra_ray.errors import FeatureError, HeadMismatchError
from hydra_ray.scorer.heads import features, projection
from hydra_ray.scorer.heads.features import ROW_GROUP_USERS, read_features, row_group_slices
from hydra_ray.scorer.heads.projection import EVALUATED, group_folds, read_names, read_projected, user_folds
from hydra_ray.scorer.heads.store import read_lineage
from hydra_ray.scorer.heads.tasks import make_prior, make_projected
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.seeds import seed_of
from hydra_ray.storage import read_part, write_part, write_row_groups


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("projected")
    stage, _ = plant(root, num_training=40, num_new=20)
    job = head_job(root, stage, ranks=(2, 4))
    prepare(job)
    return job


def test_projected_parts_hold_the_priors_products_with_every_candidate(planted):
    head_prior = read_prior(planted.prior_folder)
    for bucket in planted.stage.buckets:
        [full] = read_features(planted.features_part(bucket), 0, has_soft_targets=False)
        [part] = planted.read_projected(bucket, (), head_prior)
        assert part.user_ids == full.user_ids
        np.testing.assert_array_equal(part.is_new_U, full.is_new_U)
        np.testing.assert_allclose(part.table.features_ND, full.table.features_ND @ head_prior.basis_DR, atol=1e-5)
        np.testing.assert_array_equal(part.fold_G, group_folds(full, 5, 0))
        for name in ("targets_N", "qualities_N", "group_starts", "user_starts"):
            np.testing.assert_array_equal(getattr(part.table, name), getattr(full.table, name))
        folds_U = user_folds(full)
        folds_N, is_pseudo_N = (
            folds_U[full.table.user_of_candidate()],
            full.is_pseudo_G[full.table.group_of_candidate()],
        )
        shared_N = head_prior.shared_scores(full.table.features_ND, is_pseudo_N, folds_N)
        np.testing.assert_allclose(part.shared_N, shared_N, atol=1e-5)
        assert head_prior.routed is not None
        mixtures_GE = head_prior.routed.mixtures(full.histories_GH, folds_U[full.table.user_of_group()])
        for row, group in enumerate(full.table.group_of_candidate()):
            deviations_ED = head_prior.routed.deviations_FED[folds_N[row]]
            routed = full.table.features_ND[row] @ deviations_ED.T @ mixtures_GE[group]
            assert part.offsets_N[row] == pytest.approx(shared_N[row] + routed, abs=1e-4)


def test_another_user_s_mixture_is_lent_whole(planted):
    [part] = planted.read_projected(0, (), read_prior(planted.prior_folder))
    donors_U = np.roll(np.arange(part.table.num_users), 1)
    donors_U[0] = -1
    lent_N, user_G = part.lent_offsets(donors_U), part.table.user_of_group()
    for row, user in enumerate(part.table.user_of_candidate()):
        own = part.mixtures_GE[user_G == donors_U[user]].mean(axis=0) if donors_U[user] >= 0 else 0
        assert lent_N[row] == pytest.approx(part.shared_N[row] + (part.added_NE[row] * own).sum(), abs=1e-5)
    assert np.abs(lent_N - part.offsets_N).max() > 0.1


def test_projected_names_are_those_of_the_features(planted):
    [names] = read_names(planted.projected_part(1))
    source = read_part(planted.features_part(1), features.SCHEMA)
    assert names.to_pydict() == source.select(features.NAMES).to_pydict()


def test_a_training_user_is_scored_by_a_shared_head_that_has_not_seen_the_user(planted):
    [part] = read_features(planted.features_part(0), 0, has_soft_targets=False)
    head_prior = read_prior(planted.prior_folder)
    users = part.table.user_of_candidate()
    left_out_N = part.table.features_ND @ head_prior.pseudo_head.left_out_FD.T
    whole_N = part.table.features_ND @ head_prior.pseudo_head.weights_D
    is_pseudo_N = part.is_pseudo_G[part.table.group_of_candidate()]
    scores = head_prior.shared_scores(part.table.features_ND, is_pseudo_N, user_folds(part)[users])
    for user, is_new in enumerate(part.is_new_U):
        rows = (users == user) & is_pseudo_N
        matches = np.isclose(left_out_N[rows], scores[rows, None]).all(axis=0)
        assert np.allclose(whole_N[rows], scores[rows]) == is_new
        assert matches.sum() == (0 if is_new else 1)


def folds_of(user_id, query_ids, num_folds, seed):
    """A user's queries dealt to the folds in the order of their hashes, as a plain loop."""
    queries = sorted(set(query_ids), key=lambda query_id: seed_of(seed, "fold", user_id, query_id))
    return [queries.index(query_id) % num_folds for query_id in query_ids]


@pytest.mark.parametrize("num_variants", [1, 3])
def test_queries_are_assigned_to_folds_by_hash_with_all_their_groups(planted, num_variants):
    [part] = read_features(planted.features_part(0), 0, has_soft_targets=False)
    user_G = part.table.user_of_group()
    query_ids = [f"q{group // num_variants}" for group in range(part.table.num_groups)]
    found = group_folds(replace(part, query_ids=query_ids), 3, 7)
    is_evaluated_G = part.is_new_U[user_G] & ~part.is_pseudo_G
    np.testing.assert_array_equal(found == EVALUATED, is_evaluated_G)
    for user, user_id in enumerate(part.user_ids):
        own = np.flatnonzero((user_G == user) & ~is_evaluated_G)
        assert found[own].tolist() == folds_of(user_id, [query_ids[group] for group in own], 3, 7)


def test_a_new_user_s_known_target_is_refused(planted):
    [part] = read_features(planted.features_part(0), 0, has_soft_targets=False)
    with pytest.raises(AssertionError, match="new user"):
        group_folds(replace(part, is_known_G=np.ones_like(part.is_known_G)), 5, 0)


@pytest.mark.parametrize("num_users", [0, 1, ROW_GROUP_USERS, ROW_GROUP_USERS + 1, 7 * ROW_GROUP_USERS - 3])
def test_row_groups_are_of_nearly_one_size_and_bounded(num_users):
    sizes = [own.stop - own.start for own in row_group_slices(num_users)]
    assert sum(sizes) == num_users
    assert max(sizes) <= ROW_GROUP_USERS
    assert max(sizes) - min(sizes) <= 1


def spoil(location, schema, column, value):
    table = read_part(location, schema)
    rows = table.to_pylist()
    rows[3][column][2] = value
    write_part(location, pa.Table.from_pylist(rows, schema=table.schema))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", ["features", "history"])
def test_features_that_are_no_numbers_are_refused_with_their_stage_and_bucket(tmp_path, value, column):
    stage, _ = plant(tmp_path, num_training=10, num_new=4)
    job = head_job(tmp_path, stage)
    make_prior(job)
    spoil(job.features_part(1), features.SCHEMA, column, value)
    make_projected(job, read_prior(job.prior_folder), 0)
    for refusing in (lambda: make_projected(job, read_prior(job.prior_folder), 1), lambda: make_prior(job)):
        with pytest.raises(FeatureError, match=rf"{column} of 1 users in .*planted/features/.*bucket-00001"):
            refusing()
    assert job.unprojected_buckets() == [1]


@pytest.mark.parametrize("column", ["mixtures", "shared", "added", "inputs"])
def test_projected_features_of_nan_are_refused_with_stage_and_bucket(tmp_path, column):
    stage, _ = plant(tmp_path, num_training=30, num_new=4)
    job = head_job(tmp_path, stage)
    prepare(job)
    assert read_prior(job.prior_folder).routed is not None
    spoil(job.projected_part(1), projection.SCHEMA, column, np.nan)
    with pytest.raises(FeatureError, match=rf"{column} of 1 users in .*planted/heads/.*bucket-00001"):
        list(job.read_projected(1, (), read_prior(job.prior_folder)))


def test_projected_features_of_another_base_or_prior_are_refused(planted):
    location, lineage = planted.projected_part(0), read_lineage(planted.prior_folder)
    for other, name in ((replace(lineage, base="b2"), "base b"), (replace(lineage, head_prior="p2"), "head prior p")):
        with pytest.raises(HeadMismatchError, match=f"expected {name[-1]}2: .* for another {name[:-2]}"):
            next(read_projected(location, other, has_soft_targets=False))


def test_a_part_in_several_row_groups_reads_as_in_one(planted):
    location = planted.projected_part(0)
    [whole] = planted.read_projected(0, (), read_prior(planted.prior_folder))
    table = read_part(location, projection.SCHEMA)
    pieces = [table.slice(start, 7) for start in range(0, table.num_rows, 7)]
    write_row_groups(f"{location}.pieces", table.schema, pieces, {})
    parts = list(read_projected(f"{location}.pieces", read_lineage(planted.prior_folder), has_soft_targets=False))
    assert len(parts) == len(pieces) > 3
    assert [user_id for part in parts for user_id in part.user_ids] == whole.user_ids
    for name in ("features_ND", "targets_N"):
        together = np.concatenate([getattr(part.table, name) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole.table, name))
    assert all(part.table.user_starts[-1] == part.table.num_groups for part in parts)
    assert all(len(part.offsets_N) == part.table.num_groups * NUM_CANDIDATES for part in parts)
