from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from hydra_ray.adapt import text_classifier
from hydra_ray.adapt.text_classifier import NUM_WORDS, STRENGTHS, TextClassifier, fit_text_classifier

NUM_LABELS = 4
"""The last one is never given."""
NUM_TEXTS = 240
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, NUM_TEXTS)
folds = RNG.integers(0, 5, NUM_TEXTS)
WORDS = np.array(["good fine", "bad poor", "old dusty"])
TEXTS = [
    f"number{n % 7} {'hapax' if n == 0 else ''} {WORDS[label] if n % 3 else WORDS[n % 2]}{' ' * n}"
    for n, label in enumerate(LABELS)
]  # two thirds of them tell their label
ENCODED = np.eye(8)[LABELS] + RNG.normal(0, 0.9, (NUM_TEXTS, 8))
ENCODED /= np.linalg.norm(ENCODED, axis=1, keepdims=True)
VECTORS = dict(zip(TEXTS, ENCODED, strict=True))


def fitted_to(labels: np.ndarray, texts: Sequence[str] = TEXTS) -> TextClassifier:
    return fit_text_classifier(texts, VECTORS, labels, folds[: len(texts)], NUM_LABELS)


def told(fitted: TextClassifier) -> np.ndarray:
    """Probabilities (N, L) of the labels of all texts, each by the weights of its fold."""
    return np.exp([fitted.by_text(int(fold), [text], VECTORS)[text] for text, fold in zip(TEXTS, folds, strict=True)])


FITTED = fitted_to(LABELS)


def test_labels_are_told_with_probabilities_that_sum_to_one():
    probabilities = told(FITTED)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(NUM_TEXTS))
    assert np.mean(probabilities.argmax(axis=1) == LABELS) > 0.6


def test_texts_are_labelled_as_by_scikit_learn_fitted_on_the_other_folds():
    # Words told apart by themselves and not by a hash.
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, norm="l2").fit(TEXTS)
    words.idf_ = np.log((1 + NUM_TEXTS) / (1 + (words.transform(TEXTS) > 0).sum(axis=0).A1)) + 1
    inputs = hstack([words.transform(TEXTS), csr_matrix(ENCODED)], format="csr")

    def expected(strength: float) -> np.ndarray:
        rows = np.zeros((NUM_TEXTS, 3))
        for fold in range(5):
            model = LogisticRegression(C=strength, max_iter=300).fit(inputs[folds != fold], LABELS[folds != fold])
            rows[folds == fold] = model.predict_proba(inputs[folds == fold])
        return rows

    found = told(FITTED)[:, :3]
    assert any(np.allclose(found, expected(strength), atol=2e-3) for strength in STRENGTHS)


def test_the_labels_of_a_fold_change_nothing_in_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_classifier, "STRENGTHS", (1.0,))
    before = told(fitted_to(LABELS))
    for fold in range(5):
        after = told(fitted_to((LABELS + (folds == fold)) % 3))
        is_same = np.isclose(before, after, atol=1e-9).all(axis=1)
        assert is_same[folds == fold].all()
        assert not is_same[folds != fold].any()


def test_words_of_one_text_only_are_not_looked_at():
    place = HashingVectorizer(n_features=NUM_WORDS, alternate_sign=False, norm=None).transform(["hapax"]).indices[0]
    assert FITTED.rarities_W[place] == 0
    assert np.count_nonzero(FITTED.rarities_W) == 7 + 6


def test_a_text_of_words_that_nobody_used_is_labelled_by_its_vector():
    vectors = {"unheard": ENCODED[0]}
    logits = FITTED.weights_FLI[0, :, NUM_WORDS:] @ ENCODED[0] + FITTED.biases_FL[0]
    (found,) = FITTED.by_text(0, ["unheard"], vectors).values()
    assert np.exp(found) == pytest.approx(np.exp(logits) / np.exp(logits).sum())


def test_a_label_that_no_text_has_stays_unlikely():
    assert told(FITTED)[:, 3].max() < 1e-3


@pytest.mark.parametrize("labels", [[1], [0, 2]])
def test_of_one_or_two_labels_the_likelier_one_is_told_or_none(labels: list[int]):
    probabilities = told(fitted_to(np.resize(labels, NUM_TEXTS)))
    if len(labels) == 1:
        assert probabilities == pytest.approx(np.full((NUM_TEXTS, NUM_LABELS), 0.25))
    else:
        assert probabilities[:, labels].sum(axis=1).min() > 0.999


def test_two_labels_are_told_as_by_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_classifier, "NUM_WORDS", 1)
    monkeypatch.setattr(text_classifier, "MIN_RECORDS", NUM_TEXTS + 1)  # vectors alone
    found = told(fitted_to(LABELS % 2))
    ratios = found[folds == 0, 1] / found[folds == 0, :2].sum(axis=1)
    models = [
        LogisticRegression(C=strength, max_iter=300).fit(ENCODED[folds != 0], (LABELS % 2)[folds != 0])
        for strength in STRENGTHS
    ]
    expected = [model.predict_proba(ENCODED[folds == 0])[:, 1] for model in models]
    assert any(np.allclose(ratios, each, atol=1e-3) for each in expected)


def test_without_texts_nothing_is_told():
    nothing = fitted_to(LABELS[:0], [])
    assert told(nothing) == pytest.approx(np.full((NUM_TEXTS, NUM_LABELS), 0.25))
