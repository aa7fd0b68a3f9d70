from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from planted_features import NUM_CANDIDATES, NUM_PSEUDO, plant
from planted_heads import (
    fit_projected_buckets,
    fit_without_tune,
    head_job,
    in_row_groups,
    prepare,
    scored,
    stored_heads,
)

from hydra_ray.config import PlacementConfig
from hydra_ray.errors import FeatureError, HeadMismatchError
from hydra_ray.rows import HEADS, from_table
from hydra_ray.scorer.heads.features import SCHEMA, read_features
from hydra_ray.scorer.heads.fit import fit_heads
from hydra_ray.scorer.heads.kinds import head_kinds
from hydra_ray.scorer.heads.selection import choose_kinds, donors, heads_of
from hydra_ray.scorer.heads.store import UserHead, heads_table, prior_folder, read_heads, read_lineage
from hydra_ray.scorer.heads.tasks import fit_projected, make_prior, make_projected, make_trial
from hydra_ray.scorer.heads.trials import read_trial, run_trial
from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.storage import read_counters, read_part, remove_folder, write_part


def all_scores(user):
    return [[getattr(c, head) for head in HEADS] for group in user.groups for c in group.candidates]


def accuracy(users, hidden, variant):
    hits = []
    for user in users.values():
        if user.is_new:
            scores = [getattr(candidate, variant) for candidate in user.groups[-1].candidates]
            hits.append(int(np.argmax(scores)) == hidden[user.user_id])
    return np.mean(hits)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    features, hidden = plant(root, num_training=120, num_new=200)
    job = head_job(root, features)
    fit_without_tune(job)
    return job, hidden


def test_own_heads_beat_shared_and_other_users_heads_on_unseen_queries(planted):
    job, hidden = planted
    users = scored(job.stage)
    shared = accuracy(users, hidden, "shared")
    assert accuracy(users, hidden, "personal") > shared + 0.05
    assert accuracy(users, hidden, "shuffled") < shared + 0.02


def test_every_user_has_a_head_and_a_score_for_every_candidate(planted):
    job, hidden = planted
    users = scored(job.stage)
    heads = stored_heads(job)
    assert users.keys() == {head.user_id for head in heads} == hidden.keys()
    for head in heads:
        assert users[head.user_id].head == head.configuration
        assert users[head.user_id].is_new == head.is_new
        assert len(head.code) == {"shared": 0, "lowrank-4": 4}[head.configuration]
        assert head.num_groups == NUM_PSEUDO + (not head.is_new)
    for user in users.values():
        assert [group.query_id for group in user.groups] == [f"q{group}" for group in range(NUM_PSEUDO + 1)]
        assert all(len(group.candidates) == NUM_CANDIDATES for group in user.groups)


def test_features_of_another_base_than_the_priors_are_refused(tmp_path):
    features, _ = plant(tmp_path, num_training=10, num_new=4)
    job = head_job(tmp_path, features)
    make_prior(job)
    plant(tmp_path, num_training=10, num_new=4, base="base1")
    with pytest.raises(HeadMismatchError, match="base1"):
        make_projected(job, read_prior(job.prior_folder), 0)


def test_a_prior_may_be_wider_than_it_was_estimated(tmp_path):
    features, _ = plant(tmp_path, num_training=30, num_new=4)
    plain, wide = head_job(tmp_path / "plain", features), head_job(tmp_path / "wide", features, prior_scale=3)
    for job in (plain, wide):
        make_prior(job)
    estimated, scaled = (read_prior(job.prior_folder) for job in (plain, wide))
    assert estimated.variances[4].sum() > 0
    assert scaled.variances[4] == pytest.approx(3 * estimated.variances[4])


def refuse(*_, **__):
    raise AssertionError("fitted again")


def test_a_finished_trial_part_is_not_fitted_again(planted, tmp_path, monkeypatch):
    job = in_row_groups(planted[0], 1000, tmp_path)
    losses = make_trial(job, read_prior(job.prior_folder), "lowrank-4", [0])
    monkeypatch.setattr(Regression, "updated", refuse)
    assert make_trial(job, read_prior(job.prior_folder), "lowrank-4", [0]) == losses
    counters = read_counters(job.trial_part("lowrank-4", 0))
    assert losses["new_loss"] == pytest.approx(counters["new.loss"] / counters["new.groups"])
    with pytest.raises(AssertionError, match="fitted again"):
        make_trial(job, read_prior(job.prior_folder), "lowrank-4", [0, 1])


@pytest.mark.parametrize("size", [1, 7])
def test_heads_and_own_scores_do_not_depend_on_the_row_groups_and_need_no_features(planted, tmp_path, size):
    job, _ = planted
    copied = in_row_groups(job, size, tmp_path)
    fit_projected_buckets(copied)
    for first, again in zip(stored_heads(job), stored_heads(copied), strict=True):
        assert (first.user_id, first.configuration, first.num_groups) == (
            again.user_id,
            again.configuration,
            again.num_groups,
        )
        np.testing.assert_allclose(again.code, first.code, atol=1e-4)
        np.testing.assert_allclose(again.precision, first.precision, rtol=2e-3)
        np.testing.assert_allclose(again.held_out_losses, first.held_out_losses, atol=1e-4)
    users, users_again = scored(job.stage), scored(copied.stage)
    assert users.keys() == users_again.keys()
    for user_id, user in users.items():
        own, own_again = (
            np.delete(all_scores(each), HEADS.index("shuffled"), axis=1) for each in (user, users_again[user_id])
        )
        np.testing.assert_allclose(own_again, own, atol=1e-3)


def test_heads_of_one_configuration_are_those_of_its_trial(planted, tmp_path):
    job, _ = planted
    lowrank = next(kind for kind in head_kinds(job.config) if kind.name == "lowrank-4")
    head_prior, location = read_prior(job.prior_folder), str(tmp_path / "heads.parquet")
    lineage = read_lineage(job.prior_folder)
    fit_projected(job.projected_part(0), location, lineage, lowrank, head_prior, has_soft_targets=False)
    [table] = read_heads(location, lineage)
    [trial] = read_trial(job.trial_part("lowrank-4", 0))
    heads = list(from_table(table, UserHead))
    assert [head.user_id for head in heads] == trial.user_ids
    assert {head.configuration for head in heads} == {"lowrank-4"}
    assert [head.num_groups for head in heads] == trial.num_groups_U.tolist()
    np.testing.assert_allclose([head.code for head in heads], trial.fit.codes_UR, atol=1e-6)
    np.testing.assert_allclose([head.precision for head in heads], trial.fit.precisions_UR, rtol=1e-3)


def test_a_stored_head_scores_what_was_not_learned_from(planted):
    job, _ = planted
    basis_DR = read_prior(job.prior_folder).basis_DR
    users = scored(job.stage)
    [part] = read_features(job.features_part(1), 0, has_soft_targets=False)
    heads = {head.user_id: head for head in stored_heads(job)}
    for user in np.flatnonzero(part.is_new_U):
        code = np.resize(heads[part.user_ids[user]].code or 0.0, basis_DR.shape[1])
        rows = np.flatnonzero(part.table.user_of_candidate() == user)[-NUM_CANDIDATES:]
        candidates = users[part.user_ids[user]].groups[-1].candidates
        expected = [c.routed for c in candidates] + part.table.features_ND[rows] @ basis_DR @ code
        np.testing.assert_allclose([c.personal for c in candidates], expected, rtol=1e-4, atol=1e-5)


def test_heads_of_an_unknown_configuration_are_refused(planted):
    job, _ = planted
    [table] = read_heads(job.stage.part(heads_table(0), 0), read_lineage(job.prior_folder))
    with pytest.raises(HeadMismatchError, match="lowrank-4, expected shared"):
        heads_of(table, head_kinds(job.config.model_copy(update={"kinds": ("shared",)})))


def test_choice_follows_own_history_only_when_there_is_enough_of_it():
    cohorts = np.array([[1.0, 1.0], [1.2, 1.2]])
    is_new, num_groups = np.array([True, True, False]), np.array([1, 40, 0])
    losses = np.array([[1.2, 48.0, 0.0], [0.8, 32.0, 0.0]])
    assert choose_kinds(losses, num_groups, is_new, cohorts, 5).tolist() == [0, 1, 0]


def test_equal_losses_choose_the_shared_head():
    assert choose_kinds(np.ones((2, 1)), np.array([3]), np.array([True]), np.ones((2, 2)), 5).tolist() == [0]


@pytest.mark.parametrize(
    ("is_new", "expected"),
    [
        ([True, True, True], [1, 2, 0]),
        ([False, True, False, True], [2, 3, 0, 1]),
        ([False, True, False], [2, 2, 0]),
        ([True, False], [1, 0]),
        ([True], [-1]),
        ([], []),
    ],
)
def test_control_takes_the_next_user_alike(is_new, expected):
    assert donors(np.array(is_new, bool)).tolist() == expected


def test_control_without_another_user_is_the_shared_head(tmp_path):
    features, _ = plant(tmp_path, num_buckets=6, num_training=5, num_new=1)
    job = head_job(tmp_path, features)
    fit_without_tune(job)
    for user in scored(job.stage).values():
        assert all(c.shuffled == c.shared for group in user.groups for c in group.candidates)


def test_control_is_the_score_by_the_next_user_s_head(planted):
    job, _ = planted
    [part] = read_features(job.features_part(0), 0, has_soft_targets=False)
    [projected] = job.read_projected(0, (), read_prior(job.prior_folder))
    basis_DR, donors_U = read_prior(job.prior_folder).basis_DR, donors(part.is_new_U)
    offsets_N = projected.lent_offsets(donors_U)
    heads, users = {head.user_id: head for head in stored_heads(job)}, scored(job.stage)
    user_N = part.table.user_of_candidate()
    for user, donor in enumerate(donors_U):
        candidates = [c for group in users[part.user_ids[user]].groups for c in group.candidates]
        code = np.resize(heads[part.user_ids[donor]].code or 0.0, basis_DR.shape[1])
        expected = offsets_N[user_N == user] + part.table.features_ND[user_N == user] @ basis_DR @ code
        np.testing.assert_allclose([c.shuffled for c in candidates], expected, rtol=1e-4, atol=1e-5)


def test_routed_heads_beat_the_shared_one_where_histories_tell_users_apart(planted):
    job, hidden = planted
    users = scored(job.stage)
    assert accuracy(users, hidden, "routed") > accuracy(users, hidden, "shared") + 0.05


@pytest.mark.parametrize("kind", ["shared", "lowrank-4"])
def test_scores_that_are_no_numbers_are_never_compared(planted, kind):
    job, _ = planted
    [part] = job.read_projected(0, (), read_prior(job.prior_folder))
    spoilt = replace(part, offsets_N=np.where(np.arange(len(part.offsets_N)) == 7, np.nan, part.offsets_N))
    head_kind = next(each for each in head_kinds(job.config) if each.name == kind)
    with pytest.raises(FeatureError, match="are NaN or infinite, the first, nan, in row 7"):
        run_trial(spoilt, head_kind, read_prior(job.prior_folder))


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    root = tmp_path_factory.mktemp("crossed")
    features, hidden = plant(root, num_training=60, num_new=3, num_folds=3)
    jobs = [head_job(root, features, fold) for fold in range(3)]
    for job in jobs:
        fit_without_tune(job)
    return jobs, hidden


def test_everybody_is_scored_in_every_fold_and_new_in_one(crossed):
    jobs, hidden = crossed
    tables = [scored(job.stage, job.fold) for job in jobs]
    assert all(table.keys() == hidden.keys() for table in tables)
    times_new = [sum(table[user_id].is_new for table in tables) for user_id in sorted(hidden)]
    assert times_new == [1] * 60 + [3] * 3


def test_what_a_user_chose_in_a_real_query_changes_nothing_in_the_user_s_fold(crossed, tmp_path):
    jobs, _ = crossed
    features, _ = plant(tmp_path, num_training=60, num_new=3, num_folds=3)
    for location in features.parts("features/base"):
        table = read_part(location, SCHEMA)
        rows = table.to_pylist()
        for row in rows:
            if row["fold"] == 1:
                row["qualities"][-NUM_CANDIDATES:] = row["qualities"][-NUM_CANDIDATES:][::-1]
        write_part(location, pa.Table.from_pylist(rows, schema=table.schema))
    changed = [head_job(tmp_path, features, fold) for fold in (0, 1)]
    for job in changed:
        fit_without_tune(job)
    before, after = (
        np.array([all_scores(user) for _, user in sorted(scored(job.stage, 1).items())])
        for job in (jobs[1], changed[1])
    )
    np.testing.assert_array_equal(after, before)
    assert all_scores(scored(changed[0].stage, 0)["u000"]) != all_scores(scored(jobs[0].stage, 0)["u000"])


def test_a_fold_without_new_users_is_fitted(tmp_path):
    features, _ = plant(tmp_path, num_training=10, num_new=0, num_folds=2)
    job = head_job(tmp_path, features, fold=5)
    fit_without_tune(job)
    assert not any(user.is_new for user in scored(job.stage, 5).values())


@pytest.mark.parametrize("num_learned", [0, 6])
def test_features_may_be_all_plain_or_all_learned(tmp_path, num_learned):
    features, hidden = plant(tmp_path, num_training=10, num_new=4, num_learned=num_learned)
    job = head_job(tmp_path, features)
    fit_without_tune(job)
    assert scored(job.stage).keys() == hidden.keys()


def without(location, is_dropped):
    """Drop the groups of a part for which `is_dropped(row, group)`."""
    table = read_part(location, SCHEMA)
    rows = table.to_pylist()
    for row in rows:
        kept = [group for group in range(len(row["group_ids"])) if not is_dropped(row, group)]
        for name, width in (("candidate_ids", 1), ("qualities", 1), ("features", 6)):
            size = width * NUM_CANDIDATES
            row[name] = [value for group in kept for value in row[name][group * size : (group + 1) * size]]
        row["history"] = [value for group in kept for value in row["history"][group * 6 : (group + 1) * 6]]
        for name in ("group_ids", "query_ids", "variants", "is_pseudo", "num_candidates"):
            row[name] = [row[name][group] for group in kept]
    write_part(location, pa.Table.from_pylist(rows, schema=table.schema))


def test_without_pseudo_queries_new_users_get_what_codes_start_from(tmp_path):
    features, _ = plant(tmp_path, num_training=30, num_new=10)
    for location in features.parts("features/base"):
        without(location, lambda row, group: row["is_pseudo"][group])
    job = head_job(tmp_path, features)
    fit_without_tune(job)
    users = scored(job.stage)
    for user in (user for user in users.values() if user.is_new):
        scores = np.array([[c.personal, c.routed] for c in user.groups[0].candidates])
        np.testing.assert_allclose(scores[:, 0], scores[:, 1], rtol=1e-6)
    assert len({c.shared for user in users.values() for c in user.groups[0].candidates}) > 100


def test_users_without_any_group_have_a_head_and_no_scores(tmp_path):
    features, _ = plant(tmp_path, num_training=30, num_new=10)
    empty = {"u003", "u030"}
    for location in features.parts("features/base"):
        without(location, lambda row, _: row["user_id"] in empty)
    job = head_job(tmp_path, features)
    fit_without_tune(job)
    users = scored(job.stage)
    assert {user_id for user_id, user in users.items() if not user.groups} == empty
    heads = stored_heads(job)
    assert {head.user_id for head in heads if head.num_groups == 0} == empty


@pytest.mark.parametrize("start", ["random", "shared"])
@pytest.mark.usefixtures("one_torch_thread")
def test_kinds_without_the_shared_head_never_choose_it(tmp_path, start):
    features, _ = plant(tmp_path, num_training=8, num_new=4)
    job = head_job(tmp_path, features, kinds=("paper",), paper_start=start, paper_loss="pointwise", paper_epochs=5)
    fit_without_tune(job)
    assert {user.head for user in scored(job.stage).values()} == {"paper"}
    assert read_prior(prior_folder(job.stage.folder, 0)).variances == {}


@pytest.mark.ray
def test_fit_heads_with_tune_writes_the_same_tables_and_resumes(tmp_path, shared_ray, capfd):
    features, _ = plant(tmp_path, num_training=24, num_new=12, num_folds=2)
    job = head_job(tmp_path, features, kinds=("shared", "lowrank", "paper"), num_shards=2)

    def fit():
        return fit_heads(
            features, job.stage, job.stage, job.config, PlacementConfig(), ["base", "base"], has_soft_targets=False
        )

    counters = fit()
    assert counters["rows"] == 2 * 36
    assert fit() == counters
    assert capfd.readouterr().out == ""
    for fold in range(2):
        other = head_job(tmp_path / "other", features, fold, kinds=("shared", "lowrank", "paper"))
        fit_without_tune(other)
        first, again = scored(job.stage, fold), scored(other.stage, fold)
        assert {user_id: user.head for user_id, user in again.items()} == {i: user.head for i, user in first.items()}
        for user_id, user in first.items():
            np.testing.assert_allclose(all_scores(user), all_scores(again[user_id]), atol=1e-3)


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_a_fit_that_was_killed_goes_on_from_what_it_has_projected_and_fitted(tmp_path):
    features, _ = plant(tmp_path, num_training=24, num_new=12)
    job = head_job(tmp_path, features)
    prepare(job)
    make_trial(job, read_prior(job.prior_folder), "lowrank-4", [0])
    remove_folder(features.folder)
    counters = fit_heads(
        features, job.stage, job.stage, job.config, PlacementConfig(), ["base"], has_soft_targets=False
    )
    assert counters["rows"] == 36
    plant(tmp_path / "other", num_training=24, num_new=12)
    other = head_job(tmp_path / "other", replace(features, root=str(tmp_path / "other")))
    fit_without_tune(other)
    first, again = scored(job.stage), scored(other.stage)
    assert first.keys() == again.keys()
    for user_id, user in first.items():
        np.testing.assert_allclose(all_scores(user), all_scores(again[user_id]), atol=1e-5)
