"""Own heads fitted to preferences: Bradley-Terry through the code of all other own heads."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import encode
from planted_preferences import PREFERENCE, STORIES, as_user, choice_text, preferences
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from hydra_ray.adapt.own_model import OwnModel, chosen_candidates, fit_own_model, qualities_of, read_own_model
from hydra_ray.adapt.own_records import OwnRecords, own_inputs, own_queries, own_records
from hydra_ray.adapt.text_preferences import fit_text_preferences
from hydra_ray.lamp.choices import Choice, Ranking, ranked_record
from hydra_ray.rows import Record, User

VECTORS = dict(zip(STORIES, encode(STORIES), strict=True))
NUM_FOLDS = 3
PEOPLE = [as_user(row) for row in preferences(36, 20, 2, seed=0, is_new=False)]
KNOWS_NOTHING = fit_text_preferences([], VECTORS, np.zeros(0, np.int64))


def records_of(users: Sequence[User], fold: int | None = None) -> OwnRecords:
    folds = {user.user_id: place % NUM_FOLDS if fold is None else fold for place, user in enumerate(users)}
    return own_records(PREFERENCE, users, KNOWS_NOTHING, VECTORS, lambda user: folds[user.user_id])


RECORDS = records_of(PEOPLE)


@pytest.fixture(scope="module")
def fitted() -> OwnModel:
    return fit_own_model(PREFERENCE, RECORDS, NUM_FOLDS, seed=0)


def test_people_with_tastes_of_their_own_gain_as_predicted(fitted: OwnModel):
    assert fitted.is_on
    new = records_of([as_user(row) for row in preferences(30, 20, 0, seed=1, is_new=True)], fold=-1)
    own_scores = fitted.held_out_scores(PREFERENCE, new)
    logs = [fitted.log_probabilities(PREFERENCE, new.asked, new.fold_U, each) for each in (None, own_scores)]
    gain = (logs[1] - logs[0])[new.right_places].mean()
    low, high = fitted.gain.loss.low, fitted.gain.loss.high
    assert low is not None
    assert high is not None
    assert low - 0.1 < gain < high + 0.1
    shared, own = (qualities_of(PREFERENCE, each, new.asked, new.labels_G).mean() for each in logs)
    assert own > shared
    assert own > 0.7


def test_a_code_is_what_scikit_learn_fits_to_differences(fitted: OwnModel):
    found = fitted.fit_codes(PREFERENCE, RECORDS).codes_UR
    inputs = own_inputs(PREFERENCE, fitted.space, RECORDS.asked)
    for user in (0, 7, 20):
        basis = fitted.bases_FDR[RECORDS.fold_U[user]]
        own = np.flatnonzero(RECORDS.asked.user_G == user)
        right = RECORDS.right_places[own]
        wrong = 2 * RECORDS.asked.group_starts[own] + 1 - right
        differences = (inputs[right] - inputs[wrong]) @ basis
        signs = np.where(np.arange(len(own)) % 2, 1, -1)
        model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
        assert found[user] == pytest.approx(model.fit(differences * signs[:, None], signs).coef_[0], abs=1e-4)


def test_one_of_three_is_chosen_by_a_softmax_and_not_by_pairs(fitted: OwnModel):
    records = tuple(
        Record(record_id=str(place), input=choice_text(*STORIES[place : place + 3]), output=STORIES[place])
        for place in range(0, 24, 3)
    )
    one = records_of([replace(PEOPLE[0], history=records)], fold=-1)
    inputs = (own_inputs(PREFERENCE, fitted.space, one.asked) @ fitted.bases_FDR[-1]).reshape(8, 3, -1)

    def cost(code: np.ndarray) -> float:
        return 0.5 * code @ code - log_softmax(inputs @ code, axis=1)[np.arange(8), one.labels_G].sum()

    best = minimize(cost, np.zeros(inputs.shape[2]), method="BFGS", options={"gtol": 1e-8})
    assert fitted.fit_codes(PREFERENCE, one).codes_UR[0] == pytest.approx(best.x, abs=1e-4)


def test_a_rated_list_counts_as_plackett_and_luce_have_it_without_pairs_that_are_tied(fitted: OwnModel):
    ratings = [[3, 3, 2, 1, 1], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]
    rated = [dict(zip(STORIES[place * 5 : place * 5 + 5], each, strict=True)) for place, each in enumerate(ratings)]
    records = tuple(
        ranked_record(PREFERENCE, str(place), Ranking(asked="", levels=levels_of(each)), None)
        for place, each in enumerate(rated)
    )
    one = records_of([replace(PEOPLE[0], history=records)], fold=-1)
    vectors = fitted.space.project(np.array([VECTORS[text] for text in STORIES])) @ fitted.bases_FDR[-1]
    inputs = dict(zip(STORIES, vectors, strict=True))

    def cost(code: np.ndarray) -> float:
        total = 0.5 * code @ code
        for each in rated:
            for text, rating in each.items():
                lower = [inputs[other] @ code for other, less in each.items() if less < rating]
                total -= log_softmax([inputs[text] @ code, *lower])[0]
        return float(total)

    best = minimize(cost, np.zeros(vectors.shape[1]), method="BFGS", options={"gtol": 1e-8})
    assert fitted.fit_codes(PREFERENCE, one).codes_UR[0] == pytest.approx(best.x, abs=1e-4)
    assert np.abs(best.x).max() > 0.1


def levels_of(rated: dict[str, int]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(sorted(text for text, rating in rated.items() if rating == level))
        for level in sorted({*rated.values()}, reverse=True)
    )


def test_pairs_that_share_a_story_with_an_asked_one_say_nothing_about_it(fitted: OwnModel):
    before = fitted.held_out_scores(PREFERENCE, RECORDS)
    stories = [set(Choice.of_text(record.input).candidates) for user in PEOPLE for record in user.history]
    place = 27
    user = RECORDS.asked.user_G[place]
    shares = np.array([bool(each & stories[place]) for each in stories]) & (RECORDS.asked.user_G == user)
    assert shares.sum() > 1
    turned = replace(RECORDS, labels_G=np.where(shares, 1 - RECORDS.labels_G, RECORDS.labels_G))
    after = fitted.held_out_scores(PREFERENCE, turned)
    own = RECORDS.asked.text_of_candidate == place
    np.testing.assert_allclose(after[own], before[own], atol=1e-10)
    assert np.abs(after - before).max() > 0.01


def test_inputs_that_read_records_read_those_of_the_support_alone():
    user = PEOPLE[0]
    whole = records_of([user])
    for block in whole.support.blocks:
        shown = tuple(user.history[place] for place in np.flatnonzero(whole.support.has_KG[block]))
        asked = np.flatnonzero(whole.support.block_G == block)
        texts = [user.history[place].input for place in asked]
        cut = own_queries(PREFERENCE, [replace(user, history=shown)], [texts], KNOWS_NOTHING, VECTORS)
        is_asked = np.isin(whole.asked.text_of_candidate, asked)
        assert whole.asked.inputs_NI[is_asked] == pytest.approx(cut.inputs_NI)


def test_queries_of_any_number_of_candidates_are_scored_together(fitted: OwnModel):
    queries = [[choice_text(*STORIES[:number]) for number in (2, 5, 3)]] + [[]] * (len(PEOPLE) - 1)
    asked = own_queries(PREFERENCE, PEOPLE, queries, KNOWS_NOTHING, VECTORS)
    deviations = fitted.deviations(RECORDS.fold_U, fitted.fit_codes(PREFERENCE, RECORDS).codes_UR)
    scores = fitted.scores(PREFERENCE, asked, deviations)
    logs = fitted.log_probabilities(PREFERENCE, asked, RECORDS.fold_U, scores)
    assert np.diff(asked.group_starts).tolist() == [2, 5, 3]
    assert np.add.reduceat(np.exp(logs), asked.group_starts[:-1]) == pytest.approx(np.ones(3))
    for place, (start, end) in enumerate(zip(asked.group_starts[:-1], asked.group_starts[1:], strict=True)):
        assert chosen_candidates(PREFERENCE, logs, asked.segments)[place] == logs[start:end].argmax()
        alone = own_queries(PREFERENCE, PEOPLE[:1], [[queries[0][place]]], KNOWS_NOTHING, VECTORS)
        own = fitted.scores(PREFERENCE, alone, deviations[:1])
        assert fitted.log_probabilities(PREFERENCE, alone, RECORDS.fold_U[:1], own) == pytest.approx(logs[start:end])


def test_a_stored_model_scores_alike(fitted: OwnModel, tmp_path):
    fitted.write(str(tmp_path))
    again = read_own_model(str(tmp_path))
    assert (again.held_out_scores(PREFERENCE, RECORDS) == fitted.held_out_scores(PREFERENCE, RECORDS)).all()
