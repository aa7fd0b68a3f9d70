import numpy as np
import pytest
from builders import encode
from planted_preferences import STORIES
from scipy.special import expit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from hydra_ray.adapt import text_preferences
from hydra_ray.adapt.text_classifier import STRENGTHS, TextClassifier
from hydra_ray.adapt.text_preferences import fit_text_preferences

RNG = np.random.default_rng(0)
VECTORS = dict(zip(STORIES, encode(STORIES), strict=True))
FUN = {story: float("robot" in story or "night" in story) * 2 for story in STORIES}
FOLDS = np.repeat(np.arange(5), 40)


def _pairs(number: int) -> list[tuple[str, str]]:
    drawn = [tuple(RNG.choice(STORIES, 2, replace=False).tolist()) for _ in range(number)]
    return [(a, b) if RNG.random() < expit(FUN[a] - FUN[b]) else (b, a) for a, b in drawn]


PAIRS = _pairs(len(FOLDS))
FITTED = fit_text_preferences(PAIRS, VECTORS, FOLDS)


def scores(fitted: TextClassifier, fold: int) -> np.ndarray:
    found = fitted.logits(fold, STORIES, VECTORS)
    return np.array([found[story][0] for story in STORIES])


@pytest.mark.parametrize("fold", [0, 3])
def test_scores_are_those_of_a_logistic_regression_on_differences_of_the_other_folds(fold: int):
    # Words told apart by themselves and not by a hash.
    told = [text for pair in PAIRS for text in pair]
    words = TfidfVectorizer(sublinear_tf=True).fit(told)
    words.idf_ = np.log((1 + len(told)) / (1 + (words.transform(told) > 0).sum(axis=0).A1)) + 1
    inputs = np.hstack([words.transform(STORIES).toarray(), encode(STORIES)])
    places = np.array([[STORIES.index(text) for text in pair] for pair in PAIRS])[fold != FOLDS]
    differences = inputs[places[:, 0]] - inputs[places[:, 1]]
    signs = np.where(np.arange(len(places)) % 2, 1, -1)

    def expected(strength: float) -> np.ndarray:
        model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000)
        return inputs @ model.fit(differences * signs[:, None], signs).coef_[0]

    assert any(np.allclose(scores(FITTED, fold), expected(strength), atol=5e-3) for strength in STRENGTHS)


def test_what_people_like_scores_higher():
    liked = np.array([FUN[story] for story in STORIES])
    for fold in range(5):
        assert np.corrcoef(scores(FITTED, fold), liked)[0, 1] > 0.5


def test_a_folds_own_pairs_change_nothing_in_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_preferences, "STRENGTHS", (1.0,))  # one value for all folds, which the first chooses
    before = fit_text_preferences(PAIRS, VECTORS, FOLDS)
    turned = [pair[::-1] if fold == 2 else pair for pair, fold in zip(PAIRS, FOLDS, strict=True)]
    after = fit_text_preferences(turned, VECTORS, FOLDS)
    assert scores(after, 2) == pytest.approx(scores(before, 2))
    assert np.abs(scores(after, 1) - scores(before, 1)).max() > 0.01


def test_pairs_of_one_direction_alone_are_learned_from():
    fitted = fit_text_preferences([(STORIES[1], STORIES[0])] * 10, VECTORS, np.ones(10, np.int64))
    assert scores(fitted, 0)[1] > scores(fitted, 0)[0]
    assert not scores(fitted, 1).any()


def test_without_pairs_all_scores_are_even():
    fitted = fit_text_preferences([], VECTORS, np.zeros(0, np.int64))
    assert not scores(fitted, 0).any()
