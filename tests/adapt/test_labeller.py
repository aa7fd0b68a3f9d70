from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import user
from sklearn.linear_model import LogisticRegression

from hydra_ray.adapt import labeller
from hydra_ray.adapt.labeller import STRENGTHS, Labeller, fit_labeller, read_labeller, sampled_records
from hydra_ray.config import Task
from hydra_ray.scorer.shared import user_fold

LABELS = ("a", "b", "c", "never")
TASK = Task(name="t", kind="classification", instruction="?", labels=LABELS)
RNG = np.random.default_rng(0)
USER_IDS = [f"user {n // 6}" for n in range(240)]
PLACES = RNG.integers(0, 3, 240)
OUTPUTS = [LABELS[place] for place in PLACES]
VECTORS = np.eye(8)[PLACES] + RNG.normal(0, 0.7, (240, 8))
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
FITTED = fit_labeller(TASK, VECTORS, OUTPUTS, USER_IDS)
folds = np.array([user_fold(each) for each in USER_IDS])


def told(fitted: Labeller, number: int) -> np.ndarray:
    """Probabilities (L) of the labels of one record's text."""
    return np.exp(fitted.log_probabilities(USER_IDS[number], VECTORS[number]))


def test_labels_are_told_with_probabilities_that_sum_to_one():
    probabilities = np.array([told(FITTED, n) for n in range(240)])
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(240))
    assert np.mean(probabilities.argmax(axis=1) == PLACES) > 0.6


def test_a_users_texts_are_labelled_as_by_scikit_learn_fitted_to_the_users_of_other_folds():
    def expected(strength: float) -> np.ndarray:
        rows = np.zeros((240, 3))
        for fold in set(folds):
            model = LogisticRegression(C=strength, max_iter=300).fit(VECTORS[folds != fold], PLACES[folds != fold])
            rows[folds == fold] = model.predict_proba(VECTORS[folds == fold])
        return rows

    found = np.array([told(FITTED, n)[:3] for n in range(240)])
    assert any(np.allclose(found, expected(strength), atol=1e-3) for strength in STRENGTHS)


def test_the_records_of_a_users_own_fold_change_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labeller, "STRENGTHS", (1.0,))
    before = fit_labeller(TASK, VECTORS, OUTPUTS, USER_IDS)
    for own in set(folds):
        outputs = [LABELS[(place + (fold == own)) % 3] for place, fold in zip(PLACES, folds, strict=True)]
        after = fit_labeller(TASK, VECTORS, outputs, USER_IDS)
        for number in range(0, 240, 6):
            is_same = np.allclose(told(before, number), told(after, number), atol=1e-9)
            assert is_same == (folds[number] == own)


def test_a_label_that_no_record_has_stays_unlikely():
    assert max(told(FITTED, n)[3] for n in range(240)) < 1e-3


@pytest.mark.parametrize("outputs", [["b"] * 240, ["a", "c"] * 120])
def test_of_one_or_two_labels_the_likelier_one_is_told_or_none(outputs: list[str]):
    fitted = fit_labeller(TASK, VECTORS, outputs, USER_IDS)
    for number in range(20):
        probabilities = told(fitted, number)
        if len(set(outputs)) == 1:
            assert probabilities == pytest.approx(np.full(4, 0.25))
        else:
            assert probabilities[[0, 2]].sum() > 0.999


def test_two_labels_are_told_as_by_scikit_learn():
    outputs = [LABELS[place % 2] for place in PLACES]
    fitted = fit_labeller(TASK, VECTORS, outputs, USER_IDS)
    fold = int(folds[0])
    models = [
        LogisticRegression(C=strength, max_iter=300).fit(VECTORS[folds != fold], (PLACES % 2)[folds != fold])
        for strength in STRENGTHS
    ]
    ratio = told(fitted, 0)[1] / told(fitted, 0)[:2].sum()
    assert any(ratio == pytest.approx(model.predict_proba(VECTORS[:1])[0, 1], abs=1e-3) for model in models)


def test_a_labeller_is_the_same_when_it_is_read_again(tmp_path: Path):
    FITTED.write(str(tmp_path))
    again = read_labeller(str(tmp_path))
    assert np.array_equal(again.weights_KLH, FITTED.weights_KLH)
    assert np.array_equal(again.biases_KL, FITTED.biases_KL)


def test_few_records_are_all_taken_and_of_many_a_sample_that_no_order_decides(monkeypatch: pytest.MonkeyPatch):
    people = [replace(user(5), user_id=str(n)) for n in range(20)]
    everything = {(someone.user_id, record) for someone in people for record in someone.history}
    assert set(sampled_records(people)) == everything
    monkeypatch.setattr(labeller, "MAX_RECORDS", 30)
    sample = sampled_records(people)
    assert len(set(sample)) == len(sample) == 30
    assert set(sample) < everything
    assert sample == sampled_records(people[::-1])
    assert len({user_id for user_id, _ in sample}) > 10
