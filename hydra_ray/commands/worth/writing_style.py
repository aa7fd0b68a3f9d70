"""How much users' texts differ from each other: form, by analysis of variance, and words, within against between users.

    share of the variance = (MSB - MSW) / (MSB + (k - 1) MSW)         k the mean number of texts of a user, as in ANOVA

is 0 on average where users do not differ, and may be negative by chance. Words that a text's own input has are left
out, since anybody would write these. What users write about is still a part of both.

Shape suffixes: U users, N texts, X columns that are summed, R resamples.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt.own_model import NUM_RESAMPLES
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means, resampled_sums
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.lamp.word_overlap import words
from hydra_ray.rows import Record, User
from hydra_ray.scorer.linear.groups import Ints
from hydra_ray.seeds import rng_of

STYLE_CONFIDENCE = 0.99
"""Confidence of each interval: of four, one that is by chance above zero is rare."""
MAX_COMPARED = 20
"""Number of texts of one user whose words are compared with others."""
_MARKS = re.compile(r"[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """One figure of users' texts; above zero where users differ. Key: name."""

    name: str
    meaning: str
    value: Interval

    @property
    def is_above_zero(self) -> bool:
        """Return whether the lower bound is above zero."""
        return self.value.is_above_zero


def _length(text: str) -> float:
    return math.log(1 + len(words(text)))


def _word_length(text: str) -> float:
    found = words(text)
    return sum(map(len, found)) / max(len(found), 1)


def _marks(text: str) -> float:
    return len(_MARKS.findall(text)) / max(len(words(text)), 1)


_FORMS: Mapping[str, tuple[str, Callable[[str], float]]] = {
    "length": ("share of the variance of the log number of words", _length),
    "word length": ("share of the variance of the mean length of words", _word_length),
    "punctuation": ("share of the variance of punctuation marks a word", _marks),
}


def writing_style(users: Sequence[User]) -> tuple[Trait, ...]:
    """Return the traits of users' outputs; only users with two or more of them count."""
    several = [user for user in users if len(user.history) > 1]
    texts = [record.output for user in several for record in user.history]
    user_N = np.repeat(np.arange(len(several)), [len(user.history) for user in several])
    traits = [
        Trait(name=name, meaning=meaning, value=_share_of_variance(np.array([value(text) for text in texts]), user_N))
        for name, (meaning, value) in _FORMS.items()
    ]
    own_words = Trait(
        name="words",
        meaning="overlap (F1) of two texts of one user less that of two users' texts, without the inputs' words",
        value=_own_words(several),
    )
    return (*traits, own_words)


def _share_of_variance(values_N: Floats, user_N: Ints) -> Interval:
    centred_N = values_N - values_N.mean()
    num_U = np.bincount(user_N).astype(np.float64)
    sums_U, squares_U = (np.bincount(user_N, each).astype(np.float64) for each in (centred_N, centred_N**2))
    sums_UX = np.stack([np.ones(len(num_U)), num_U, num_U**2, sums_U, squares_U, sums_U**2 / num_U], axis=1)
    observed_X, resampled_RX = resampled_sums(lambda start, stop: sums_UX[start:stop], len(num_U), NUM_RESAMPLES, 0)
    value = float(_intraclass(observed_X[None])[0])
    return interval(value, _intraclass(resampled_RX), STYLE_CONFIDENCE, len(num_U))


def _intraclass(sums_RX: Floats) -> Floats:
    """Return the intraclass correlation (R), of sums over users of (1, n, n^2, sum, sum of squares, sum^2 / n)."""
    users_R, texts_R, squared_R, total_R, squares_R, between_R = sums_RX.T
    among_R = (between_R - total_R**2 / texts_R) / np.maximum(users_R - 1, 1)
    within_R = (squares_R - between_R) / np.maximum(texts_R - users_R, 1)
    mean_R = (texts_R - squared_R / texts_R) / np.maximum(users_R - 1, 1)
    return (among_R - within_R) / np.maximum(among_R + (mean_R - 1) * within_R, 1e-12)


def _own_words(users: Sequence[User]) -> Interval:
    """Return the mean over users of how much more a text has in common with another of the user's than with others'.

    A pair of one user has different inputs, and each is set against a text of another user for the same one.
    """
    rng = rng_of(0, "worth", "words")
    shown = [[(record.input, _new_words(record)) for record in user.history] for user in users]
    means = list[float]()
    for place, own in enumerate(shown):
        differences = list[float]()
        for at in rng.permutation(len(own))[:MAX_COMPARED].tolist():
            asked, found = own[at]
            others = [each for text, each in own if text != asked]
            strangers = shown[(place + int(rng.integers(1, len(shown)))) % len(shown)] if len(shown) > 1 else []
            apart = [each for text, each in strangers if text != asked]
            if others and apart:
                near = others[int(rng.integers(len(others)))]
                far = apart[int(rng.integers(len(apart)))]
                differences.append(_f1(found, near) - _f1(found, far))
        if differences:
            means.append(float(np.mean(differences)))
    if not means:
        return Interval(value=0.0, low=None, high=None)
    observed, resampled = resampled_means(np.ones(len(means)), np.array(means)[:, None], NUM_RESAMPLES, 0)
    return interval(float(observed[0]), resampled[:, 0], STYLE_CONFIDENCE, len(means))


def _new_words(record: Record) -> frozenset[str]:
    return frozenset(words(record.output)) - frozenset(words(record.input))


def _f1(first: frozenset[str], second: frozenset[str]) -> float:
    return 2 * len(first & second) / max(len(first) + len(second), 1)
