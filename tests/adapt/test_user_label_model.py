from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hydra_ray.adapt import user_label_model
from hydra_ray.adapt.user_label_model import PRIOR_VARIANCE, Evidence, fit_user_label_model, label_inputs
from hydra_ray.config import Task
from hydra_ray.lamp.tasks import TASKS

TASK = Task(name="t", kind="classification", instruction="?", labels=("a", "b"))
RATING = TASKS["LaMP_3"]
EVIDENCE = Evidence(
    text_logs_L=np.log([0.2, 0.8]),
    record_logs_NL=np.log([[0.5, 0.5], [0.1, 0.9], [0.6, 0.4]]),
    record_labels_N=np.array([1, 1, 1]),
    near_N=np.array([0.2, 0.3, 0.5]),
)
NOTHING = Evidence(
    text_logs_L=np.log([0.2, 0.8]),
    record_logs_NL=np.zeros((0, 2)),
    record_labels_N=np.zeros(0, np.int64),
    near_N=np.zeros(0),
)


def test_what_is_known_of_each_label_is_as_worked_out_by_hand():
    # Two imagined records, one of each label, stand beside the three.
    expected = [
        np.log([0.2, 0.8]),
        np.log([1 / 5, 4 / 5]),
        [0, 1],
        np.log([0.02, 1.02]),
        [-(0.5 + 0.1 + 0.6) / 5, (0.5 + 0.1 + 0.6) / 5],
        [-(0.2 * 0.5 + 0.3 * 0.1 + 0.5 * 0.6), 0.2 * 0.5 + 0.3 * 0.1 + 0.5 * 0.6],
        [0, 1],
        [1, 0],
        [0, 1],
    ]
    found = label_inputs(EVIDENCE, TASK).T
    assert found == pytest.approx(np.array(expected))


def test_without_records_the_text_alone_tells_labels_apart():
    inputs = label_inputs(NOTHING, TASK)
    assert inputs[:, 0] == pytest.approx(np.log([0.2, 0.8]))
    assert inputs[:, 1:7] == pytest.approx(np.tile(inputs[0, 1:7], (2, 1)))


def test_a_rating_is_also_compared_with_the_users_ratings():
    # All labels of 1 to 5 are as likely by their texts; the user gave 5 twice, and the nearer of them counts all.
    even = np.log(np.full(5, 0.2))
    evidence = Evidence(
        text_logs_L=even,
        record_logs_NL=np.tile(even, (2, 1)),
        record_labels_N=np.array([4, 4]),
        near_N=np.array([1.0, 0.0]),
    )
    scale = np.array([-1, -0.5, 0, 0.5, 1])
    shares = (np.array([0, 0, 0, 0, 2]) + 2 / 5) / 4
    mean = scale @ shares
    residual = scale @ (np.array([0, 0, 0, 0, 2]) - 2 / 5) / 4
    expected = [
        scale * mean,
        scale * 1.0,
        scale * residual,
        scale * 0,
        scale**2 * (scale**2 @ shares - mean**2),
        abs(scale - mean),
        (scale - mean) ** 2,
        abs(scale - 1.0),
    ]
    found = label_inputs(evidence, RATING)[:, -8:].T
    assert found == pytest.approx(np.array(expected))


def asked(number: int, rng: np.random.Generator) -> tuple[Evidence, int]:
    """A record of a user who gives the second label ever more often than texts say."""
    texts = rng.dirichlet([1, 1], 6)
    labels = (rng.random(6) < 0.3 + 0.7 * texts[:, 1]).astype(int)
    evidence = Evidence(
        text_logs_L=np.log(texts[0]),
        record_logs_NL=np.log(texts[1:]),
        record_labels_N=labels[1:],
        near_N=np.full(5, 0.2),
    )
    return evidence, int(labels[0])


RNG = np.random.default_rng(1)
ASKED = [asked(number, RNG) for number in range(300)]
EVIDENCES, LABELS = [each for each, _ in ASKED], np.array([label for _, label in ASKED])
folds = np.arange(300) // 7 % 5


def test_with_two_labels_it_is_logistic_regression_on_the_inputs_difference():
    fitted = fit_user_label_model(TASK, EVIDENCES, LABELS, folds)
    inputs = np.array([label_inputs(each, TASK) for each in EVIDENCES])
    for fold in range(5):
        kept = folds != fold
        # What varies within a query, by its deviation from the query's mean, has a variance of 1.
        scales = (inputs[kept] - inputs[kept].mean(axis=1, keepdims=True)).std(axis=(0, 1))
        scales[scales < 1e-5] = 1
        differences = (inputs[:, 1] - inputs[:, 0]) / scales
        model = LogisticRegression(C=PRIOR_VARIANCE, fit_intercept=False, tol=1e-8, max_iter=1000)
        expected = model.fit(differences[kept], LABELS[kept]).predict_proba(differences)[:, 1]
        found = [np.exp(fitted.log_probabilities(fold, each, TASK))[1] for each in EVIDENCES]
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_folds_own_labels_change_nothing_in_it():
    before = fit_user_label_model(TASK, EVIDENCES, LABELS, folds)
    for fold in range(5):
        after = fit_user_label_model(TASK, EVIDENCES, np.where(folds == fold, 1 - LABELS, LABELS), folds)
        is_same = [np.allclose(before.weights_FI[k], after.weights_FI[k], atol=1e-9) for k in range(5)]
        assert is_same == [k == fold for k in range(5)]


def test_a_user_who_gives_a_label_more_often_than_texts_say_gets_it_more_often():
    fitted = fit_user_label_model(TASK, EVIDENCES, LABELS, folds)
    strict, kind = (replace(EVIDENCE, record_labels_N=np.full(3, label)) for label in (0, 1))
    assert fitted.log_probabilities(0, kind, TASK)[1] > fitted.log_probabilities(0, strict, TASK)[1]


def test_without_records_all_labels_are_alike():
    fitted = fit_user_label_model(TASK, [], np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert np.exp(fitted.log_probabilities(0, EVIDENCE, TASK)) == pytest.approx([0.5, 0.5])


def test_the_weights_do_not_depend_on_the_order_of_the_records(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(user_label_model, "PRIOR_VARIANCE", 0.1)
    order = np.random.default_rng(2).permutation(300)
    one = fit_user_label_model(TASK, EVIDENCES, LABELS, folds)
    other = fit_user_label_model(TASK, [EVIDENCES[place] for place in order], LABELS[order], folds[order])
    assert one.weights_FI == pytest.approx(other.weights_FI, abs=1e-6)
