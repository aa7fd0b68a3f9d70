from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from planted_features import NUM_CANDIDATES, NUM_PSEUDO, plant

from hydra_ray.config import HeadsConfig, PlacementConfig
from hydra_ray.errors import HeadMismatchError
from hydra_ray.records import HEADS, ScoredUser, arrow_schema, from_table
from hydra_ray.scorer.configurations import configurations
from hydra_ray.scorer.features import SCHEMA, read_features
from hydra_ray.scorer.fitting import HeadJob, fit_heads, make_bucket, make_population, make_trial
from hydra_ray.scorer.population import read_population
from hydra_ray.scorer.selection import choose_configurations, cohort_losses, donors, shuffled_scores
from hydra_ray.scorer.store import heads_table, population_folder, read_heads, scores_table
from hydra_ray.scorer.trials import group_folds, read_trial, shared_scores
from hydra_ray.stages import Stage
from hydra_ray.storage import add_counters, read_counters, read_part, write_part


def head_job(root, features, fold=0, **settings):
    stage = Stage(name="planted.heads", fingerprint="h" * 16, root=str(root), num_buckets=features.num_buckets)
    config = HeadsConfig(**{"ranks": (4,), **settings})
    return HeadJob(
        features=features,
        stage=stage,
        population=stage,
        config=config,
        is_graded=False,
        base_name="base",
        fold=fold,
    )


def fit_without_tune(job):
    make_population(job)
    names = [configuration.name for configuration in configurations(job.config)]
    for name in names:
        make_trial(job, name, range(job.stage.num_buckets))
    cohorts = cohort_losses([add_counters(map(read_counters, job.trial_parts(name))) for name in names])
    for bucket in range(job.stage.num_buckets):
        make_bucket(job, bucket, cohorts)


def scored(stage, fold=0):
    return {
        user.user_id: user
        for location in stage.parts(scores_table(fold))
        for user in from_table(read_part(location, arrow_schema(ScoredUser)), ScoredUser)
    }


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


def test_own_heads_beat_the_shared_one_on_unseen_queries_and_other_users_heads_do_not(planted):
    job, hidden = planted
    users = scored(job.stage)
    shared = accuracy(users, hidden, "shared")
    assert accuracy(users, hidden, "personal") > shared + 0.05
    assert accuracy(users, hidden, "shuffled") < shared + 0.02


def test_every_user_has_a_head_and_a_score_for_every_candidate(planted):
    job, hidden = planted
    users = scored(job.stage)
    heads = [head for location in job.stage.parts(heads_table(0)) for head in read_heads(location, "base0")]
    assert users.keys() == {head.user_id for head in heads} == hidden.keys()
    for head in heads:
        assert users[head.user_id].head == head.configuration
        assert users[head.user_id].is_new == head.is_new
        assert len(head.code) == {"shared": 0, "lowrank-4": 4}[head.configuration]
        assert head.num_groups == NUM_PSEUDO + (not head.is_new)
    for user in users.values():
        assert [group.query_id for group in user.groups] == [f"q{group}" for group in range(NUM_PSEUDO + 1)]
        assert all(len(group.candidates) == NUM_CANDIDATES for group in user.groups)


def test_heads_are_sorted_by_user(planted):
    job, _ = planted
    for location in job.stage.parts(heads_table(0)):
        ids = [head.user_id for head in read_heads(location, "base0")]
        assert ids == sorted(ids)


def test_heads_of_another_base_are_refused(planted):
    job, _ = planted
    with pytest.raises(HeadMismatchError, match="expected base1"):
        read_heads(job.stage.part(heads_table(0), 0), "base1")


def test_features_of_another_base_than_the_population_s_are_refused(tmp_path):
    features, _ = plant(tmp_path, num_training=10, num_new=4)
    job = head_job(tmp_path, features)
    make_population(job)
    plant(tmp_path, num_training=10, num_new=4, base="base1")
    with pytest.raises(HeadMismatchError, match="base1"):
        make_trial(job, "shared", [0])


def test_a_finished_trial_part_is_not_fitted_again(planted):
    job, _ = planted
    location = job.trial_part("lowrank-4", 0)
    before = read_counters(location)
    assert make_trial(job, "lowrank-4", [0])["new_loss"] == pytest.approx(before["new.loss"] / before["new.groups"])


def test_known_groups_are_scored_by_heads_that_did_not_see_them(planted):
    job, _ = planted
    part = read_features(job.features_part(0), 0, is_graded=False)
    trial = read_trial(job.trial_part("lowrank-4", 0))
    folds = group_folds(part, job.config.num_folds, job.config.seed)
    is_evaluated = part.is_new_U[part.table.user_of_group()] & ~part.is_pseudo_G
    assert ((folds == -1) == is_evaluated).all()
    assert (trial.num_groups_U > 0).all()


def test_a_new_user_s_known_target_is_refused(tmp_path):
    features, _ = plant(tmp_path, num_buckets=1, num_training=4, num_new=2)
    part = read_features(features.part("features/base", 0), 0, is_graded=False)
    leaking = replace(part, is_known_G=np.ones_like(part.is_known_G))
    with pytest.raises(AssertionError, match="new user"):
        group_folds(leaking, 5, 0)


def test_choice_follows_own_history_only_when_there_is_enough_of_it():
    cohorts = np.array([[1.0, 1.0], [1.2, 1.2]])
    is_new, num_groups = np.array([True, True, False]), np.array([1, 40, 0])
    losses = np.array([[1.2, 48.0, 0.0], [0.8, 32.0, 0.0]])
    assert choose_configurations(losses, num_groups, is_new, cohorts, 5).tolist() == [0, 1, 0]


def test_equal_losses_choose_the_shared_head():
    assert choose_configurations(np.ones((2, 1)), np.array([3]), np.array([True]), np.ones((2, 2)), 5).tolist() == [0]


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
    part = read_features(job.features_part(0), 0, is_graded=False)
    population = read_population(job.population_folder)
    kinds = configurations(job.config)
    trials = [read_trial(job.trial_part(kind.name, 0)) for kind in kinds]
    everybody_lowrank = np.ones(len(part.user_ids), int)
    shuffled = shuffled_scores(part, everybody_lowrank, trials, kinds, population)
    user = 3
    own = part.table.user_of_candidate() == user
    deviation = population.basis_DR @ trials[1].codes_UK[donors(part.is_new_U)[user]]
    expected = shared_scores(part, population)[own] + part.table.features_ND[own] @ deviation
    np.testing.assert_allclose(shuffled[own], expected, rtol=1e-5)


def test_training_users_are_scored_by_a_shared_head_that_has_not_seen_them(planted):
    job, _ = planted
    part = read_features(job.features_part(0), 0, is_graded=False)
    population = read_population(job.population_folder)
    scores, users = shared_scores(part, population), part.table.user_of_candidate()
    left_out_N = part.table.features_ND @ population.pseudo_head.left_out_KD.T
    whole_N = part.table.features_ND @ population.pseudo_head.weights_D
    is_pseudo_N = part.is_pseudo_G[part.table.group_of_candidate()]
    for user, is_new in enumerate(part.is_new_U):
        rows = (users == user) & is_pseudo_N
        matches = np.isclose(left_out_N[rows], scores[rows, None]).all(axis=0)
        assert np.allclose(whole_N[rows], scores[rows]) == is_new
        assert matches.sum() == (0 if is_new else 1)


def test_histories_that_tell_users_apart_make_routed_heads_better_than_the_shared_one(planted):
    job, hidden = planted
    users = scored(job.stage)
    assert accuracy(users, hidden, "routed") > accuracy(users, hidden, "shared") + 0.05


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
        for name in ("group_ids", "query_ids", "variants", "is_pseudo", "num_candidates"):
            row[name] = [row[name][group] for group in kept]
    write_part(location, pa.Table.from_pylist(rows, schema=table.schema))


def test_without_pseudo_queries_new_users_get_the_shared_head(tmp_path):
    features, _ = plant(tmp_path, num_training=30, num_new=10)
    for location in features.parts("features/base"):
        without(location, lambda row, group: row["is_pseudo"][group])
    job = head_job(tmp_path, features)
    fit_without_tune(job)
    users = scored(job.stage)
    for user in (user for user in users.values() if user.is_new):
        scores = np.array([[c.personal, c.shared] for c in user.groups[0].candidates])
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
    heads = [head for location in job.stage.parts(heads_table(0)) for head in read_heads(location, "base0")]
    assert {head.user_id for head in heads if head.num_groups == 0} == empty


@pytest.mark.parametrize("start", ["random", "shared"])
@pytest.mark.usefixtures("one_torch_thread")
def test_kinds_without_the_shared_head_never_choose_it(tmp_path, start):
    features, _ = plant(tmp_path, num_training=8, num_new=4)
    job = head_job(tmp_path, features, kinds=("paper",), paper_start=start, paper_loss="pointwise", paper_epochs=5)
    fit_without_tune(job)
    assert {user.head for user in scored(job.stage).values()} == {"paper"}
    assert read_population(population_folder(job.stage.folder, 0)).variances == {}


@pytest.mark.ray
def test_fit_heads_with_tune_writes_the_same_tables_and_resumes(tmp_path, ray_two_cpus, capfd):
    features, _ = plant(tmp_path, num_training=24, num_new=12, num_folds=2)
    job = head_job(tmp_path, features, kinds=("shared", "lowrank", "paper"), num_shards=2)

    def fit():
        return fit_heads(
            features, job.stage, job.stage, job.config, PlacementConfig(), ["base", "base"], is_graded=False
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
