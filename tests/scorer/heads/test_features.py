from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_features import NUM_CANDIDATES, NUM_PSEUDO, WIDTH, plant

from hydra_ray.rows import Candidate, Group, UserExamples, to_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.features import (
    SCHEMA,
    FeatureWriter,
    read_features,
    sample_training_users,
    target_distributions,
)
from hydra_ray.scorer.linear.groups import starts_of, target_distribution
from hydra_ray.scorer.splits import is_new_in
from hydra_ray.storage import read_part, write_part


def fold_column(features, bucket):
    return np.array(read_part(features.part("features/base", bucket), SCHEMA)["fold"].to_pylist(), float)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_users_of_the_fold_are_new_and_their_real_qualities_hidden(tmp_path, fold):
    features, _ = plant(tmp_path, num_training=12, num_new=4, num_folds=3)
    for bucket in range(2):
        [part] = read_features(features.part("features/base", bucket), fold, has_soft_targets=False)
        folds = fold_column(features, bucket)
        np.testing.assert_array_equal(part.is_new_U, np.isnan(folds) | (folds == fold))
        is_evaluated_G = part.is_new_U[part.table.user_of_group()] & ~part.is_pseudo_G
        assert is_evaluated_G.sum() == part.is_new_U.sum() > 0
        np.testing.assert_array_equal(part.is_known_G, ~is_evaluated_G)
        np.testing.assert_array_equal(part.table.has_target(), ~is_evaluated_G)
        is_evaluated_N = is_evaluated_G[part.table.group_of_candidate()]
        np.testing.assert_array_equal(np.isnan(part.table.qualities_N), is_evaluated_N)
        assert not part.table.targets_N[is_evaluated_N].any()


def test_each_user_of_a_fold_is_new_in_that_fold_alone(tmp_path):
    features, _ = plant(tmp_path, num_buckets=1, num_training=12, num_new=0, num_folds=3)
    location = features.part("features/base", 0)
    is_new = np.stack([next(read_features(location, fold, has_soft_targets=False)).is_new_U for fold in range(3)])
    assert (is_new.sum(axis=0) == 1).all()


def test_without_folds_only_the_split_says_who_is_new(tmp_path):
    features, _ = plant(tmp_path, num_buckets=1, num_training=5, num_new=3)
    part = read_part(features.part("features/base", 0), SCHEMA)
    for fold in (0, 1, None):
        assert is_new_in(part, fold).tolist() == [False] * 5 + [True] * 3


def test_a_fold_may_have_nobody(tmp_path):
    features, _ = plant(tmp_path, num_buckets=1, num_training=6, num_new=0, num_folds=2)
    [part] = read_features(features.part("features/base", 0), 7, has_soft_targets=False)
    assert not part.is_new_U.any()
    assert part.is_known_G.all()


def test_a_part_without_users_reads_as_nobody(tmp_path):
    features, _ = plant(tmp_path, num_buckets=3, num_training=1, num_new=1)
    [part] = read_features(features.part("features/base", 2), 0, has_soft_targets=False)
    assert part.user_ids == []
    assert part.table.features_ND.shape == (0, WIDTH)


def test_histories_are_a_row_a_group(tmp_path):
    features, _ = plant(tmp_path, num_buckets=1, num_training=4, num_new=1)
    location = features.part("features/base", 0)
    flat = np.concatenate(read_part(location, SCHEMA)["history"].to_pylist())
    [part] = read_features(location, 0, has_soft_targets=False)
    np.testing.assert_allclose(part.histories_GH, flat.reshape(part.table.num_groups, WIDTH), rtol=1e-6)


@pytest.mark.parametrize(("has_soft_targets", "expected"), [(False, [0, 0, 1, 0, 0]), (True, None)])
def test_grades_count_only_where_asked_for(tmp_path, has_soft_targets, expected):
    features, _ = plant(tmp_path, num_buckets=1, num_training=1, num_new=0)
    location = features.part("features/base", 0)
    table = read_part(location, SCHEMA)
    rows = [{**row, "qualities": [0.1, 0.2, 0.9, 0.3, 0.0] * (NUM_PSEUDO + 1)} for row in table.to_pylist()]
    write_part(location, pa.Table.from_pylist(rows, schema=table.schema))
    targets = next(read_features(location, 0, has_soft_targets=has_soft_targets)).table.targets_N[:NUM_CANDIDATES]
    if expected is None:
        assert np.argsort(targets).tolist() == [4, 0, 1, 3, 2]
        assert (targets > 0).all()
    else:
        assert targets.tolist() == expected


def test_sample_of_training_users_does_not_depend_on_the_parts(tmp_path):
    few, _ = plant(tmp_path / "few", num_buckets=1)
    many, _ = plant(tmp_path / "many", num_buckets=4)
    samples = [
        sample_training_users(stage.parts("features/base"), 7, 0, 0, has_soft_targets=False) for stage in (few, many)
    ]
    assert samples[0].user_ids == samples[1].user_ids
    assert len(samples[0].user_ids) == 7
    assert not samples[0].is_new_U.any()


def test_users_of_the_fold_are_not_sampled(tmp_path):
    features, _ = plant(tmp_path, num_training=12, num_new=4, num_folds=3)
    found = [
        set(sample_training_users(features.parts("features/base"), 99, 0, fold, has_soft_targets=False).user_ids)
        for fold in range(3)
    ]
    assert [len(users) for users in found] == [8, 8, 8]
    assert not found[0] & found[1] & found[2]
    assert len(found[0] | found[1]) == 12


def test_features_are_made_and_written_some_users_at_a_time(tmp_path, monkeypatch):
    sizes = []

    def learned(queries, candidates):
        sizes.append(len(queries))
        return torch.tensor([[len(query), len(text)] for query, text in zip(queries, candidates, strict=True)]).float()

    shape = SimpleNamespace(width=2, handcrafted_names=["one"])
    base = SimpleNamespace(shape=shape, num_features=3, learned_features=learned, plain_features=lambda each: each)
    training = {"fold": None, "training": {"best_epoch": 0}}
    monkeypatch.setattr(
        "hydra_ray.scorer.base.model.load_base", lambda *_: (base, {"fingerprint": "base0", **training})
    )
    monkeypatch.setattr("hydra_ray.scorer.heads.features.ROW_GROUP_USERS", 3)
    stage = Stage(name="writer", fingerprint="0", root=str(tmp_path), num_buckets=1)
    users = [
        UserExamples(user_id=f"u{user}", is_new=False, groups=(group_of(user),) if user else ()) for user in range(7)
    ]
    write_part(stage.part("examples", 0), to_table(users[::-1], UserExamples))
    counters = FeatureWriter(stage, stage, stage, ["base"])(0)
    assert counters == {"rows": 7, "groups": 6, "candidates": 12}
    assert sizes == [2, 4, 6]
    parts = list(read_features(stage.part("features/base", 0), 0, has_soft_targets=False))
    assert [part.user_ids for part in parts] == [["u0", "u1"], ["u2", "u3"], ["u4", "u5", "u6"]]
    expected = [[[5 + user, 2, 0.5], [5 + user, 3, 0.5]] for user in range(1, 7)]
    features = np.concatenate([part.table.features_ND for part in parts])
    np.testing.assert_allclose(features, np.concatenate(expected))


def group_of(user):
    candidates = tuple(
        Candidate(candidate_id=text, text=text, plain=(0.5,), quality=float(place))
        for place, text in enumerate(("ab", "abc"))
    )
    return Group(
        group_id="g", query_id="q", variant="personal", is_pseudo=True, query="x" * (5 + user), candidates=candidates
    )


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.none() | st.sampled_from([0.0, 0.25, 1.0]) | st.floats(0, 1, width=16), max_size=5), max_size=8
    ),
    st.booleans(),
)
def test_targets_of_all_groups_are_those_of_each(groups, has_soft_targets):
    flat = np.array([np.nan if value is None else value for own in groups for value in own], float)
    targets, is_known = target_distributions(
        flat, starts_of([len(own) for own in groups]), has_soft_targets=has_soft_targets
    )
    expected = [target_distribution(own, has_soft_targets=has_soft_targets) or [0.0] * len(own) for own in groups]
    np.testing.assert_allclose(targets, [value for own in expected for value in own])
    assert is_known.tolist() == [bool(own) and None not in own for own in groups]
