"""Text preferences, the same for all users: Bradley-Terry on the words and the encoder's vectors of candidates.

    P(chosen before rejected) = sigmoid(w . (x_chosen - x_rejected))

with the inputs x of the text classifier, and as a classifier of one label, whose logit is a candidate's score: only
differences of scores within a choice mean anything, so there is no bias.

Shape suffixes: P pairs, T distinct texts, I inputs, F folds of users.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from hydra_ray.adapt.text_classifier import (
    NUM_WORDS,
    STRENGTHS,
    TextClassifier,
    rarities_of,
    text_inputs,
    word_counts,
)
from hydra_ray.retrieve.dense import Floats, Vectors
from hydra_ray.scorer.linear.groups import Bools, Ints
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS


def fit_text_preferences(pairs: Sequence[tuple[str, str]], vectors: Vectors, fold_P: Ints) -> TextClassifier:
    """Fit the scores of all folds to pairs of a chosen and a rejected text; without any, all scores are 0.

    Args:
        vectors: vectors of these texts, or of any if there are none.
        fold_P: fold of each pair's user.
    """
    biases_F1 = np.zeros((NUM_USER_FOLDS, 1))
    if not pairs:
        num_inputs = NUM_WORDS + len(next(iter(vectors.values())))
        weights_F1I = np.zeros((NUM_USER_FOLDS, 1, num_inputs))
        return TextClassifier(rarities_W=np.zeros(NUM_WORDS), weights_FLI=weights_F1I, biases_FL=biases_F1)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    places = {text: place for place, text in enumerate(texts)}
    pairs_P2 = np.array([[places[chosen], places[rejected]] for chosen, rejected in pairs])
    counts = word_counts(texts)
    rarities_W = rarities_of(csr_matrix(counts[pairs_P2.ravel()]))
    inputs = text_inputs(texts, counts, rarities_W, vectors)
    is_first_P = fold_P == 0
    strengths = STRENGTHS if is_first_P.any() else STRENGTHS[:1]
    candidates = {each: _fit(inputs, pairs_P2[~is_first_P], each) for each in strengths}
    strength = min(strengths, key=lambda each: _loss(candidates[each], inputs, pairs_P2, is_first_P))
    others = [_fit(inputs, pairs_P2[fold_P != fold], strength) for fold in range(1, NUM_USER_FOLDS)]
    weights_FI = np.stack([candidates[strength], *others])
    return TextClassifier(rarities_W=rarities_W, weights_FLI=weights_FI[:, None, :], biases_FL=biases_F1)


def _loss(weights_I: Floats, inputs: csr_matrix, pairs_P2: Ints, is_asked_P: Bools) -> float:
    """Return the mean loss of some pairs; 0 without any."""
    if not is_asked_P.any():
        return 0.0
    scores_P2 = (inputs @ weights_I)[pairs_P2[is_asked_P]]
    return float(np.logaddexp(0, scores_P2[:, 1] - scores_P2[:, 0]).mean())


def _fit(inputs: csr_matrix, pairs_P2: Ints, strength: float) -> Floats:
    """Return the weights of the inputs (I)."""
    from sklearn.linear_model import LogisticRegression

    weights_I = np.zeros(inputs.get_shape()[1])
    if not len(pairs_P2):
        return weights_I
    # Pairs that many users judge are computed with once for each outcome, from the lower place to the higher one.
    low_P, high_P = pairs_P2.min(axis=1), pairs_P2.max(axis=1)
    outcomes = np.stack([low_P, high_P, pairs_P2[:, 0] == low_P], axis=1)
    distinct, numbers = np.unique(outcomes, axis=0, return_counts=True)
    differences = csr_matrix(inputs[distinct[:, 0]] - inputs[distinct[:, 1]])
    seen = np.flatnonzero(differences.getnnz(axis=0))
    is_low_chosen = distinct[:, 2]
    if len(np.unique(is_low_chosen)) < 2:  # scikit-learn wants both outcomes; a pair turned round is the same
        differences, is_low_chosen, numbers = _turned(differences, is_low_chosen, numbers)
    model = LogisticRegression(C=strength, max_iter=300, fit_intercept=False)
    model.fit(differences[:, seen], is_low_chosen, sample_weight=numbers)
    weights_I[seen] = model.coef_[0]
    return weights_I


def _turned(differences: csr_matrix, is_low_chosen: Ints, numbers: Ints) -> tuple[csr_matrix, Ints, Floats]:
    """Return the pairs and the same ones turned round, of half the weight each."""
    from scipy.sparse import vstack

    both = csr_matrix(vstack([differences, -differences]))
    return both, np.concatenate([is_low_chosen, 1 - is_low_chosen]), np.tile(numbers / 2, 2)
