"""Text classifier of labels, the same for all users: logistic regression on tf-idf words and the encoder's vector.

Words are hashed, so that no word is stored.

Shape suffixes: N texts, H the encoder's width, W hashed words, L labels, I inputs (W + H), F folds of users.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, hstack
from scipy.special import log_softmax

from hydra_ray.retrieve.dense import Floats, Vectors
from hydra_ray.scorer.linear.groups import Bools, Ints
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS

STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Candidates for the inverse penalty C of the logistic regression, chosen on the first fold of users."""
NUM_WORDS = 2**14
MIN_RECORDS = 2
"""Number of records below which a word is ignored."""
_UNSEEN = -10.0
"""Bias of a label that no record has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassifier:
    """One classifier for each fold of users, fitted on the records of the users of the other folds."""

    rarities_W: Floats
    """Inverse document frequency of each word; 0 where it is ignored."""
    weights_FLI: Floats
    """Weights of a text's words followed by those of its vector."""
    biases_FL: Floats

    def by_text(self, fold: int, texts: Iterable[str], vectors: Vectors) -> dict[str, Floats]:
        """Return the log probabilities of the labels (L) for each text of users of a fold."""
        logits = self.logits(fold, texts, vectors)
        if not logits:
            return {}
        return dict(zip(logits, log_softmax(np.stack([*logits.values()]), axis=1), strict=True))

    def logits(self, fold: int, texts: Iterable[str], vectors: Vectors) -> dict[str, Floats]:
        """Return the logits of the labels (L) for each text of users of a fold."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        inputs = text_inputs(distinct, word_counts(distinct), self.rarities_W, vectors)
        return dict(zip(distinct, inputs @ self.weights_FLI[fold].T + self.biases_FL[fold], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Labelled texts; those that are alike have one row of inputs."""

    inputs: csr_matrix
    place_N: Ints
    """Row of each text."""
    labels_N: Ints


def fit_text_classifier(
    texts: Sequence[str], vectors: Vectors, labels_N: Ints, fold_N: Ints, num_labels: int
) -> TextClassifier:
    """Fit the classifiers of all folds to labelled texts; without any, all labels are equally likely.

    Args:
        vectors: vectors of these texts, or of any if there are none.
        labels_N: index of each text's label.
        fold_N: fold of each text's user.
    """
    if not texts:
        num_inputs = NUM_WORDS + len(next(iter(vectors.values())))
        return TextClassifier(
            rarities_W=np.zeros(NUM_WORDS),
            weights_FLI=np.zeros((NUM_USER_FOLDS, num_labels, num_inputs)),
            biases_FL=np.zeros((NUM_USER_FOLDS, num_labels)),
        )
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    place_N, counts = np.array([places[text] for text in texts]), word_counts(places)
    rarities_W = rarities_of(csr_matrix(counts[place_N]))
    known = _Texts(inputs=text_inputs(list(places), counts, rarities_W, vectors), place_N=place_N, labels_N=labels_N)
    # The first fold's candidates leave out its texts, as its classifier does.
    is_first_N = fold_N == 0
    strengths = STRENGTHS if is_first_N.any() else STRENGTHS[:1]
    candidates = {each: _fit(known, ~is_first_N, each, num_labels) for each in strengths}
    strength = min(strengths, key=lambda each: _loss(candidates[each], known, is_first_N))
    others = range(1, NUM_USER_FOLDS)
    fitted = [candidates[strength]]
    fitted += [_fit(known, fold_N != fold, strength, num_labels) for fold in others]
    return TextClassifier(
        rarities_W=rarities_W,
        weights_FLI=np.stack([weights for weights, _ in fitted]),
        biases_FL=np.stack([biases for _, biases in fitted]),
    )


def word_counts(texts: Iterable[str]) -> csr_matrix:
    """Return the counts of the hashed words in each text (N, W)."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(n_features=NUM_WORDS, alternate_sign=False, norm=None)  # pyright: ignore[reportArgumentType]
    return csr_matrix(hashing.transform(texts))


def rarities_of(counts: csr_matrix) -> Floats:
    """Return the inverse document frequency of each word (W), 0 of one that is ignored."""
    from sklearn.feature_extraction.text import TfidfTransformer

    num_texts_W = counts.getnnz(axis=0)
    return np.where(num_texts_W >= MIN_RECORDS, TfidfTransformer().fit(counts).idf_, 0.0)


def text_inputs(texts: Sequence[str], counts: csr_matrix, rarities_W: Floats, vectors: Vectors) -> csr_matrix:
    """Return each text's tf-idf weighted words and its vector, both scaled to length 1 (N, I)."""
    from sklearn.feature_extraction.text import TfidfTransformer

    weighting = TfidfTransformer(sublinear_tf=True)
    weighting.idf_ = rarities_W
    encoded_NH = csr_matrix(np.stack([vectors[text] for text in texts]))
    return csr_matrix(hstack([weighting.transform(counts), encoded_NH]))


def _loss(classifier: tuple[Floats, Floats], known: _Texts, is_asked_N: Bools) -> float:
    """Return the mean loss on some texts; 0 without texts."""
    if not is_asked_N.any():
        return 0.0
    weights_LI, biases_L = classifier
    logs = log_softmax(known.inputs @ weights_LI.T + biases_L, axis=1)
    return float(-logs[known.place_N[is_asked_N], known.labels_N[is_asked_N]].mean())


def _fit(known: _Texts, is_kept_N: Bools, strength: float, num_labels: int) -> tuple[Floats, Floats]:
    """Return weights (L, I) and biases (L); a label that no text has stays unlikely."""
    from sklearn.linear_model import LogisticRegression

    _, num_inputs = known.inputs.get_shape()
    weights, biases = np.zeros((num_labels, num_inputs)), np.full(num_labels, _UNSEEN)
    present = np.unique(known.labels_N[is_kept_N])
    if len(present) < 2:
        return np.zeros_like(weights), np.zeros(num_labels)
    # Texts that many users label, such as jokes that they rate, are computed with once for each label.
    pairs = np.stack([known.place_N[is_kept_N], known.labels_N[is_kept_N]], axis=1)
    _, firsts, numbers = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    order = np.argsort(firsts)
    places, labels = pairs[firsts[order]].T
    kept = csr_matrix(known.inputs[places])
    # The ridge leaves the weights of words that no text has at zero, and most hashed words are such.
    seen = np.flatnonzero(kept.getnnz(axis=0))
    model = LogisticRegression(C=strength, max_iter=300).fit(kept[:, seen], labels, sample_weight=numbers[order])
    coefficients, intercepts = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = (
            np.vstack([-coefficients, coefficients]) / 2,
            np.hstack([-intercepts, intercepts]) / 2,
        )
    weights[np.ix_(present, seen)], biases[present] = coefficients, intercepts
    return weights, biases
