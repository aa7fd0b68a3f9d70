import numpy as np
import pyarrow as pa
import pytest

from hydra_ray.config import HeadsConfig, PlacementConfig
from hydra_ray.errors import HeadMismatchError
from hydra_ray.records import ScoredUser, arrow_schema, from_table
from hydra_ray.scorer.configurations import configurations
from hydra_ray.scorer.features import SCHEMA, WIDTHS_KEY, read_features, sample_training_users
from hydra_ray.scorer.fitting import HeadJob, fit_heads, make_bucket, make_population, make_trial
from hydra_ray.scorer.selection import choose_configurations, cohort_losses, donors, shuffled_scores
from hydra_ray.scorer.store import BASE_KEY, read_heads
from hydra_ray.scorer.trials import group_folds, read_trial
from hydra_ray.stages import Stage
from hydra_ray.storage import add_counters, read_counters, read_part, write_part

NUM_PSEUDO, NUM_CANDIDATES, WIDTH = 6, 5, 6


def user_row(user_id, rng, *, is_new, deviation):
    """A user who chooses by own weights; what was chosen in the one real query only a training user shows."""
    weights = np.array([1.0, -0.5, 0.0, 0.3, 0.0, 0.8]) + deviation
    num_groups = NUM_PSEUDO + 1
    features = rng.normal(size=(num_groups, NUM_CANDIDATES, WIDTH))
    choices = (features @ weights + rng.gumbel(size=features.shape[:2])).argmax(axis=1)
    qualities = np.eye(NUM_CANDIDATES)[choices].tolist()
    if is_new:
        qualities[-1] = [None] * NUM_CANDIDATES
    return {
        "user_id": user_id,
        "is_new": is_new,
        "is_unseen": True,
        "group_ids": [f"g{group}" for group in range(num_groups)],
        "query_ids": [f"q{group}" for group in range(num_groups)],
        "variants": ["personal"] * num_groups,
        "is_pseudo": [True] * NUM_PSEUDO + [False],
        "num_candidates": [NUM_CANDIDATES] * num_groups,
        "candidate_ids": [f"c{c}" for _ in range(num_groups) for c in range(NUM_CANDIDATES)],
        "qualities": [quality for group in qualities for quality in group],
        "features": features.ravel().tolist(),
        "hidden_choice": int(choices[-1]),
    }


def plant(root, *, num_buckets=2, num_training=40, num_new=40, spread=1.5, base="base0"):
    """Features of planted users; returns the stage and what the new users choose in their real query."""
    rng = np.random.default_rng(0)
    stage = Stage(name="planted.features", fingerprint="f" * 16, root=str(root), num_buckets=num_buckets)
    rows = [[] for _ in range(num_buckets)]
    for user in range(num_training + num_new):
        deviation = rng.normal(size=WIDTH) * spread
        row = user_row(f"u{user:03d}", rng, is_new=user >= num_training, deviation=deviation)
        rows[user % num_buckets].append(row)
    hidden = {row["user_id"]: row.pop("hidden_choice") for part in rows for row in part}
    for bucket, part in enumerate(rows):
        metadata = {BASE_KEY: base.encode(), WIDTHS_KEY: b"2 4"}
        table = pa.Table.from_pylist(part, schema=SCHEMA.with_metadata(metadata))
        write_part(stage.part("features", bucket), table)
    return stage, hidden


def head_job(root, features, **settings):
    stage = Stage(name="planted.heads", fingerprint="h" * 16, root=str(root), num_buckets=features.num_buckets)
    return HeadJob(features=features, stage=stage, config=HeadsConfig(ranks=(4,), **settings))


def fit_without_tune(job):
    make_population(job)
    names = [configuration.name for configuration in configurations(job.config)]
    for name in names:
        make_trial(job, name, range(job.stage.num_buckets))
    cohorts = cohort_losses([add_counters(map(read_counters, job.trial_parts(name))) for name in names])
    for bucket in range(job.stage.num_buckets):
        make_bucket(job, bucket, cohorts)


def scored(stage):
    return {
        user.user_id: user
        for location in stage.parts("scores")
        for user in from_table(read_part(location, arrow_schema(ScoredUser)), ScoredUser)
    }


def all_scores(user):
    return [[c.personal, c.shared, c.shuffled] for group in user.groups for c in group.candidates]


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
    heads = [head for location in job.stage.parts("heads") for head in read_heads(location, "base0")]
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
    for location in job.stage.parts("heads"):
        ids = [head.user_id for head in read_heads(location, "base0")]
        assert ids == sorted(ids)


def test_heads_of_another_base_are_refused(planted):
    job, _ = planted
    with pytest.raises(HeadMismatchError, match="expected base1"):
        read_heads(job.stage.part("heads", 0), "base1")


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
    part = read_features(job.features.part("features", 0))
    trial = read_trial(job.trial_part("lowrank-4", 0))
    folds = group_folds(part, job.config.num_folds, job.config.seed)
    is_evaluated = part.is_new_U[part.table.user_of_group()] & ~part.is_pseudo_G
    assert ((folds == -1) == is_evaluated).all()
    assert (trial.num_groups_U > 0).all()


def test_a_new_user_s_known_target_is_refused(tmp_path):
    features, _ = plant(tmp_path, num_buckets=1, num_training=4, num_new=2)
    location = features.part("features", 0)
    table = read_part(location, SCHEMA)
    rows = [{**row, "qualities": [0.0] * len(row["qualities"])} for row in table.to_pylist()]
    write_part(location, pa.Table.from_pylist(rows, schema=table.schema))
    with pytest.raises(AssertionError, match="new user"):
        group_folds(read_features(location), 5, 0)


def test_sample_of_training_users_does_not_depend_on_the_parts(tmp_path):
    few, _ = plant(tmp_path / "few", num_buckets=1)
    many, _ = plant(tmp_path / "many", num_buckets=4)
    samples = [sample_training_users(stage.parts("features"), 7, 0) for stage in (few, many)]
    assert samples[0].user_ids == samples[1].user_ids
    assert len(samples[0].user_ids) == 7
    assert not samples[0].is_new_U.any()


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
    from hydra_ray.scorer.population import read_population

    job, _ = planted
    part, population = read_features(job.features.part("features", 0)), read_population(job.population_folder)
    kinds = configurations(job.config)
    trials = [read_trial(job.trial_part(kind.name, 0)) for kind in kinds]
    everybody_lowrank = np.ones(len(part.user_ids), int)
    shuffled = shuffled_scores(part, everybody_lowrank, trials, kinds, population)
    user = 3
    own = part.table.user_of_candidate() == user
    weights = population.weights_D + population.basis_DR @ trials[1].codes_UK[donors(part.is_new_U)[user]]
    np.testing.assert_allclose(shuffled[own], part.table.features_ND[own] @ weights, rtol=1e-5)


@pytest.mark.ray
def test_fit_heads_with_tune_writes_the_same_tables_and_resumes(tmp_path, ray_two_cpus, capfd):
    features, _ = plant(tmp_path, num_training=24, num_new=12)
    job = head_job(tmp_path, features, kinds=("shared", "lowrank", "paper"), num_shards=2)
    counters = fit_heads(features, job.stage, job.config, PlacementConfig())
    assert counters["rows"] == 36
    first = scored(job.stage)
    assert fit_heads(features, job.stage, job.config, PlacementConfig()) == counters
    assert capfd.readouterr().out == ""
    other = head_job(tmp_path / "other", features, kinds=("shared", "lowrank", "paper"))
    fit_without_tune(other)
    again = scored(other.stage)
    assert {user_id: user.head for user_id, user in again.items()} == {i: user.head for i, user in first.items()}
    for user_id, user in first.items():
        np.testing.assert_allclose(all_scores(user), all_scores(again[user_id]), atol=1e-4)
