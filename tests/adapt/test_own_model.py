from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import encode
from scipy.optimize import minimize
from scipy.special import log_softmax

from hydra_ray.adapt.own_model import OwnModel, chosen_candidates, fit_own_model, read_own_model, stack_inputs
from hydra_ray.adapt.own_records import OwnRecords, own_inputs, own_queries, own_records
from hydra_ray.adapt.text_classifier import TextClassifier, fit_text_classifier
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.groups import Segments
from hydra_ray.scorer.linear.support import decay

RATING, CLASSES = TASKS["LaMP_3"], TASKS["planted"]
ITEMS = [letter * 3 + other for letter in "abcdefgh" for other in "pqr"]
VECTORS = dict(zip(ITEMS, encode(ITEMS), strict=True))
NUM_FOLDS = 3


def rater(number: int, taste: float, rng: np.random.Generator, num_records: int = 20, dates: bool = False) -> User:
    """Someone who likes the items of some letters as much as `taste`, and the others as little."""
    chosen = rng.permutation(ITEMS)[:num_records]
    means = [3 + taste * (1 if item[0] in "abcd" else -1) for item in chosen]
    ratings = np.clip(np.round(means + rng.normal(size=num_records) * 0.7), 1, 5).astype(int)
    return User(
        user_id=f"user {number}",
        is_new=False,
        history=tuple(
            Record(record_id=str(place), input=str(item), output=str(rating), date=place if dates else None)
            for place, (item, rating) in enumerate(zip(chosen, ratings.tolist(), strict=True))
        ),
        queries=(),
    )


def raters(taste: float, num_users: int = 45, seed: int = 0, dates: bool = False) -> list[User]:
    rng = np.random.default_rng(seed)
    return [rater(number, taste * rng.choice([-1, 1]), rng, dates=dates) for number in range(num_users)]


def knows_nothing(num_labels: int) -> TextClassifier:
    nothing = np.zeros(0, np.int64)
    return fit_text_classifier([], VECTORS, nothing, nothing, num_labels)


def records_of(users: Sequence[User], fold: int | None = None) -> OwnRecords:
    return own_records(
        RATING,
        users,
        knows_nothing(5),
        VECTORS,
        lambda user: int(user.user_id.split()[1]) % NUM_FOLDS if fold is None else fold,
    )


PEOPLE = raters(1.5)
RECORDS = records_of(PEOPLE)


@pytest.fixture(scope="module")
def fitted() -> OwnModel:
    return fit_own_model(RATING, RECORDS, NUM_FOLDS, seed=0)


def test_people_with_tastes_of_their_own_switch_own_heads_on(fitted: OwnModel):
    assert fitted.is_on
    assert fitted.gain.loss.value > 0.05
    assert fitted.gain.num_users == len(PEOPLE)


def test_people_who_are_alike_switch_them_off():
    alike = [replace(each, history=each.history[:6]) for each in raters(0.0, num_users=30, seed=1)]
    model = fit_own_model(RATING, records_of(alike), NUM_FOLDS, seed=0)
    assert not model.is_on


def test_new_people_gain_as_predicted(fitted: OwnModel):
    new = records_of(raters(1.5, seed=7), fold=-1)
    own = fitted.log_probabilities(RATING, new.asked, new.fold_U, fitted.held_out_scores(RATING, new))
    shared = fitted.log_probabilities(RATING, new.asked, new.fold_U, None)
    gain = (own - shared)[new.right_places].mean()
    low, high = fitted.gain.loss.low, fitted.gain.loss.high
    assert low is not None
    assert high is not None
    assert low - 0.1 < gain < high + 0.1


def test_a_code_is_the_mode_that_a_plain_optimizer_finds(fitted: OwnModel):
    records = records_of(raters(1.0, num_users=3, seed=4, dates=True), fold=-1)
    model = replace(fitted, shape=fitted.shape._replace(half_life=8.0))
    found = model.fit_codes(RATING, records)
    inputs = own_inputs(RATING, model.space, records.asked)
    inputs = inputs.reshape(-1, 5, inputs.shape[1]) @ model.bases_FDR[-1]
    text_logs = records.asked.text_scores_N.reshape(-1, 5)
    for user in range(3):
        own = records.asked.user_G == user

        def cost(code: np.ndarray, own: np.ndarray = own) -> float:
            logs = log_softmax(text_logs[own] + inputs[own] @ code, axis=1)
            weights = decay(records.age_G[own], 8.0)
            return 0.5 * code @ code - weights @ logs[np.arange(own.sum()), records.labels_G[own]]

        best = minimize(cost, np.zeros(inputs.shape[2]), method="BFGS", options={"gtol": 1e-8})
        assert found.codes_UR[user] == pytest.approx(best.x, abs=1e-4)


def test_deviations_score_as_codes_do(fitted: OwnModel):
    codes = fitted.fit_codes(RATING, RECORDS).codes_UR
    queries = own_queries(RATING, PEOPLE, [ITEMS[:2]] * len(PEOPLE), knows_nothing(5), VECTORS)
    scores = fitted.scores(RATING, queries, fitted.deviations(RECORDS.fold_U, codes))
    inputs = own_inputs(RATING, fitted.space, queries)
    place = 7
    user = queries.user_G[place]
    expected = inputs.reshape(len(queries.user_G), 5, -1)[place] @ fitted.bases_FDR[RECORDS.fold_U[user]] @ codes[user]
    labels = slice(5 * place, 5 * place + 5)
    assert scores[labels] == pytest.approx(queries.text_scores_N[labels] + expected)


def test_a_folds_own_labels_change_nothing_that_scores_it(fitted: OwnModel):
    changed = replace(RECORDS, labels_G=np.where(RECORDS.fold_U[RECORDS.asked.user_G] == 1, 0, RECORDS.labels_G))
    after = fit_own_model(RATING, changed, NUM_FOLDS, seed=0)
    # What was chosen for all folds at once is a few values that the losses of all of them chose.
    assert after.bases_FDR.shape[2] >= 1
    rank = min(after.shape.rank, fitted.shape.rank)

    def directions(model: OwnModel, fold: int) -> np.ndarray:
        basis = model.bases_FDR[fold][:, :rank]
        return basis / np.linalg.norm(basis, axis=0)

    is_same = [np.allclose(directions(fitted, fold), directions(after, fold), atol=1e-9) for fold in range(NUM_FOLDS)]
    assert is_same == [False, True, False]


def test_a_record_is_scored_without_its_own_label_and_those_of_its_block(fitted: OwnModel):
    before = fitted.held_out_scores(RATING, RECORDS)
    block = RECORDS.support.block_G == 2
    changed = replace(RECORDS, labels_G=np.where(block, 4 - RECORDS.labels_G, RECORDS.labels_G))
    after = fitted.held_out_scores(RATING, changed)
    is_asked = block[RECORDS.asked.text_of_candidate]
    np.testing.assert_allclose(after[is_asked], before[is_asked], atol=1e-10)
    assert np.abs(after[~is_asked] - before[~is_asked]).max() > 0.01


def test_inputs_that_read_records_read_those_of_the_support_alone():
    user = PEOPLE[0]
    whole = records_of([user])
    for block in whole.support.blocks:
        shown = tuple(user.history[place] for place in np.flatnonzero(whole.support.has_KG[block]))
        asked = np.flatnonzero(whole.support.block_G == block)
        texts = [user.history[place].input for place in asked]
        cut = own_queries(RATING, [replace(user, history=shown)], [texts], knows_nothing(5), VECTORS)
        is_asked = np.isin(whole.asked.text_of_candidate, asked)
        assert whole.asked.inputs_NI[is_asked] == pytest.approx(cut.inputs_NI)


def test_columns_of_own_scores_are_as_worked_out_by_hand():
    one = RECORDS.asked.of_texts(np.arange(len(RECORDS.labels_G)) == 0)
    scores = np.array([0.0, 1.0, 2.0, 0.5, -1.0])
    ratings, logs = np.linspace(-1, 1, 5), log_softmax(scores)
    mean = np.exp(logs) @ ratings
    gains = scores - one.text_scores_N
    expected = [gains - gains.mean(), logs, ratings * mean, abs(ratings - mean), (ratings - mean) ** 2]
    found = stack_inputs(RATING, one, scores)
    assert pytest.approx(np.array(expected)) == found[:, -5:].T
    assert found[:, :-5] == pytest.approx(one.inputs_NI)


def test_a_rating_is_chosen_by_expected_quality_and_a_class_by_its_probability():
    logs, one = np.log(np.array([0.4, 0.0001, 0.0001, 0.2, 0.3998])), Segments.even(5, 5)
    assert chosen_candidates(RATING, logs, one).tolist() == [3]
    assert chosen_candidates(replace_task(), logs, one).tolist() == [0]


def replace_task():
    return CLASSES.model_copy(update={"labels": ("a", "b", "c", "d", "e")})


def test_a_stored_model_is_the_same(fitted: OwnModel, tmp_path: Path):
    fitted.write(str(tmp_path))
    again = read_own_model(str(tmp_path))
    assert again.shape == fitted.shape
    assert again.gain == fitted.gain
    assert (again.bases_FDR == fitted.bases_FDR).all()
    assert (again.with_FI == fitted.with_FI).all()


def test_a_part_in_which_nobody_asks_or_nobody_has_records_is_scored_too(fitted: OwnModel):
    nobody_asks = own_queries(RATING, PEOPLE, [[]] * len(PEOPLE), knows_nothing(5), VECTORS)
    deviations = fitted.deviations(RECORDS.fold_U, fitted.fit_codes(RATING, RECORDS).codes_UR)
    scores = fitted.scores(RATING, nobody_asks, deviations)
    assert scores.shape == (0,)
    assert fitted.log_probabilities(RATING, nobody_asks, RECORDS.fold_U, scores).shape == (0,)
    silent = records_of([replace(each, history=()) for each in PEOPLE[:2]], fold=-1)
    assert not fitted.fit_codes(RATING, silent).codes_UR.any()
    assert fitted.held_out_scores(RATING, silent).shape == (0,)
