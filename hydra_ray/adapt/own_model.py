"""Own heads fitted to records: the model that all users' records teach, and the candidates that it chooses for a user.

    own     s_u(l, i) = t(l, i) + psi(l, i)' B a_u
    stack   score = w . inputs(S) + v . c         c = [s - t centred, log softmax s; of ratings r m, |r - m|, (r - m)^2]

where l is a label of the text i, or in a preference task one of the texts to choose from (the softmax over two of them
is Bradley-Terry); inputs(S) read the same support S as the code, and m is the expected rating.
Everything is cross-fitted: a user's texts are scored by a basis and by stacks that were fitted without the user's fold,
and those of users who taught nothing by what all training users taught. `is_on` decides for the whole data set: own
heads count only where the gain that histories predict is above zero.

Shape suffixes: U users, G records or queries, N their candidates, L labels, F folds of training users and one more for
all of them, I inputs that read records, C columns of own scores, D inputs psi, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hydra_ray import storage
from hydra_ray.adapt.own_records import (
    Asked,
    ItemSpace,
    OwnRecords,
    item_space,
    own_inputs,
    own_table,
    start_variances,
)
from hydra_ray.adapt.user_label_model import fit_choice_weights, rating_scale
from hydra_ray.config import Task
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means
from hydra_ray.lamp.quality import is_graded, quality
from hydra_ray.retrieve.dense import Floats
from hydra_ray.scorer.linear.groups import Ints, Segments, log_softmax
from hydra_ray.scorer.linear.newton import Belief, Regression
from hydra_ray.scorer.linear.own import (
    MAX_SEARCH_USERS,
    OwnPrior,
    OwnShape,
    fit_own_prior,
    shape_losses,
    shapes_of,
)
from hydra_ray.scorer.linear.support import decay, held_out_scores
from hydra_ray.seeds import rng_of
from hydra_ray.storage.arrays import read_arrays, write_arrays

NUM_RESAMPLES, CONFIDENCE = 2000, 0.95
"""Resamples of users, and confidence, of the interval of the predicted gain."""
_ARRAYS, DESCRIPTION = "own.safetensors", "own.json"
_ANEW = "Remove the stage's folder and run again: only own heads are fitted anew."


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedGain:
    """Gain of own heads over the same stack without them on held-out records: means over users."""

    num_users: int
    num_records: int
    loss: Interval
    """Fall of the log loss of a record's label, in nats; its lower bound decides."""
    quality: Interval
    """Rise of the quality of the chosen label."""

    @property
    def is_above_zero(self) -> bool:
        """Return whether the lower bound of the fall of the loss is above zero."""
        return self.loss.is_above_zero


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFold:
    """What the users outside one fold teach, and the losses of the fold's users by shape."""

    prior: OwnPrior
    losses_UM: Floats
    """Mean held-out losses of some users of the fold by each of `shapes_of`; without users for all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """Bases and stacks of all folds of training users; the last of each is of all of them."""

    space: ItemSpace
    bases_FDR: Floats
    """Bases in which codes have prior variance 1."""
    with_FI: Floats
    """Weights of the stack's inputs and columns of own scores."""
    without_FI: Floats
    """Weights of the same inputs alone, fitted to the same records."""
    constants_F: Ints
    """Place among the candidates of the answer that knows neither text nor user: the label of highest mean quality on
    the taught records, or the first candidate of a preference task."""
    shape: OwnShape
    gain: PredictedGain

    @property
    def is_on(self) -> bool:
        """Return whether own heads count in this data set."""
        return self.gain.is_above_zero

    def deviations(self, fold_U: Ints, codes_UR: Floats) -> Floats:
        """Return each user's weights of the inputs psi (U, D); they are comparable between folds."""
        return np.einsum("udr,ur->ud", self.bases_FDR[fold_U], codes_UR)

    def fit_codes(self, task: Task, records: OwnRecords, prior: Belief | None = None) -> Belief:
        """Fit the codes of all users to all of their records.

        Args:
            prior: what is known already, of which `records` are not a part; the head prior if None.
        """
        table, inputs_NR = self._regression_inputs(task, records)
        regression = Regression(table, inputs_NR, records.asked.text_scores_N)
        known = prior or Belief.prior(len(records.user_ids), np.ones(inputs_NR.shape[1]))
        return regression.updated(known, decay(records.age_G, self.shape.half_life))

    def held_out_scores(self, task: Task, records: OwnRecords) -> Floats:
        """Return the own scores of every record's candidates (N), each by a code that was fitted to its support."""
        table, inputs_NR = self._regression_inputs(task, records)
        regression = Regression(table, inputs_NR, records.asked.text_scores_N)
        return held_out_scores(regression, np.ones(inputs_NR.shape[1]), records.support, self.shape.half_life)

    def scores(self, task: Task, asked: Asked, deviations_UD: Floats) -> Floats:
        """Return the own scores of the candidates of each text (N) by its user's weights."""
        inputs_ND = own_inputs(task, self.space, asked)
        return asked.text_scores_N + np.einsum(
            "nd,nd->n", inputs_ND, deviations_UD[asked.user_G][asked.text_of_candidate]
        )

    def log_probabilities(self, task: Task, asked: Asked, fold_U: Ints, scores_N: Floats | None) -> Floats:
        """Return the log probabilities of the candidates of each text (N).

        Args:
            scores_N: own scores; None for the stack without them.
        """
        fold_N = fold_U[asked.user_G][asked.text_of_candidate]
        if scores_N is None:
            return log_softmax(np.einsum("ni,ni->n", asked.inputs_NI, self.without_FI[fold_N]), asked.segments)
        inputs_NI = stack_inputs(task, asked, scores_N)
        return log_softmax(np.einsum("ni,ni->n", inputs_NI, self.with_FI[fold_N]), asked.segments)

    def write(self, folder: str) -> None:
        """Write the model to `folder`, its description last."""
        arrays = {
            "means": self.space.means_H,
            "components": self.space.components_QH,
            "bases": self.bases_FDR,
            "with": self.with_FI,
            "without": self.without_FI,
            "constants": self.constants_F,
        }
        digest = write_arrays(storage.join(folder, _ARRAYS), arrays)
        half_life = None if np.isinf(self.shape.half_life) else self.shape.half_life
        description = {
            "shape": {**self.shape._asdict(), "half_life": half_life},
            "gain": asdict(self.gain),
            "digest": digest,
        }
        storage.write_json(storage.join(folder, DESCRIPTION), description)

    def _regression_inputs(self, task: Task, records: OwnRecords) -> tuple[Any, Floats]:
        asked = records.asked
        inputs_ND = own_inputs(task, self.space, asked)
        fold_N = records.fold_U[asked.user_G][asked.text_of_candidate]
        inputs_NR = np.empty((len(inputs_ND), self.bases_FDR.shape[2]))
        for fold in np.unique(fold_N):
            inputs_NR[fold_N == fold] = inputs_ND[fold_N == fold] @ self.bases_FDR[fold]
        return own_table(records, inputs_NR), inputs_NR


def read_own_model(folder: str) -> OwnModel:
    """Read the model stored in `folder`.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    shape = {"shape": dict, "gain": dict, "digest": str}
    description = storage.read_json(storage.join(folder, DESCRIPTION), shape)
    arrays = read_arrays(storage.join(folder, _ARRAYS), _ANEW, description["digest"])
    found: Mapping[str, Any] = description["shape"]
    gain: Mapping[str, Any] = description["gain"]
    return OwnModel(
        space=ItemSpace(means_H=arrays["means"], components_QH=arrays["components"]),
        bases_FDR=arrays["bases"],
        with_FI=arrays["with"],
        without_FI=arrays["without"],
        constants_F=arrays["constants"],
        shape=OwnShape(found["rank"], found["factor"], found["half_life"] or np.inf),
        gain=PredictedGain(
            num_users=gain["num_users"],
            num_records=gain["num_records"],
            loss=Interval(**gain["loss"]),
            quality=Interval(**gain["quality"]),
        ),
    )


def stack_inputs(task: Task, asked: Asked, scores_N: Floats) -> Floats:
    """Return the stack's inputs of every candidate (N, I + C): those that read records, and columns of own scores."""
    segments = asked.segments
    gains_N, logs_N = scores_N - asked.text_scores_N, log_softmax(scores_N, segments)
    means_G = segments.sums(gains_N) / np.diff(asked.group_starts)
    columns = [gains_N - segments.spread(means_G), logs_N]
    if task.kind == "rating":
        ratings_L = rating_scale(task)
        expected_G1 = np.exp(logs_N).reshape(-1, len(ratings_L)) @ ratings_L[:, None]
        distances_GL = ratings_L - expected_G1
        columns += [each.ravel() for each in (ratings_L * expected_G1, abs(distances_GL), distances_GL**2)]
    return np.concatenate([asked.inputs_NI, np.stack(columns, axis=1)], axis=1)


def own_space(records: OwnRecords) -> ItemSpace:
    """Return the item space of the distinct items of some records."""
    return item_space(np.unique(records.asked.vectors_VH, axis=0).astype(np.float64))


def fit_own_fold(task: Task, records: OwnRecords, space: ItemSpace, fold: int, seed: int) -> OwnFold:
    """Estimate how the users outside a fold deviate, and evaluate all shapes on the fold's users.

    Args:
        fold: -1 for the prior of all users.
    """
    taught, held_out = (records.of_users(mask) for mask in (records.fold_U != fold, records.fold_U == fold))
    inputs_ND = own_inputs(task, space, taught.asked)
    start_D = start_variances(task, inputs_ND.shape[1])
    prior = fit_own_prior(own_table(taught, inputs_ND), taught.asked.text_scores_N, start_D)
    chosen = rng_of(seed, "search").permutation(len(held_out.user_ids))[:MAX_SEARCH_USERS]
    sample = held_out.of_users(np.isin(np.arange(len(held_out.user_ids)), chosen))
    shapes = shapes_of(inputs_ND.shape[1], is_dated=records.is_dated)
    if not len(sample.labels_G):
        return OwnFold(prior=prior, losses_UM=np.zeros((0, len(shapes))))
    table = own_table(sample, own_inputs(task, space, sample.asked))
    losses_UM = shape_losses(table, sample.asked.text_scores_N, sample.support, prior, shapes)
    return OwnFold(prior=prior, losses_UM=losses_UM[~np.isnan(losses_UM).any(axis=1)])


def join_own_folds(task: Task, records: OwnRecords, space: ItemSpace, folds: Sequence[OwnFold]) -> OwnModel:
    """Choose the shape, fit the stacks with and without own scores, and predict the gain.

    Args:
        folds: of each fold of the training users, and last of all of them.
    """
    losses_UM = np.concatenate([fold.losses_UM for fold in folds])
    num_inputs = len(folds[0].prior.directions_DR)
    shapes = shapes_of(num_inputs, is_dated=records.is_dated)
    shape = shapes[int(losses_UM.mean(axis=0).argmin())] if len(losses_UM) else shapes[0]
    bases_FDR = np.stack([fold.prior.basis(shape) for fold in folds])
    # Scores need no stack, so that the columns of stacks are those of a model without them.
    bare = OwnModel(
        space=space,
        bases_FDR=bases_FDR,
        with_FI=np.zeros((len(folds), 0)),
        without_FI=np.zeros((len(folds), 0)),
        constants_F=np.array([_constant(task, _labels_outside(records, fold)) for fold in _folds(len(folds))]),
        shape=shape,
        gain=_gain_of(np.zeros(0, np.int64), np.zeros(0), np.zeros(0)),
    )
    is_asked_G = records.support.block_G >= 0
    scores_N = bare.held_out_scores(task, records)[is_asked_G[records.asked.text_of_candidate]]
    known = records.of_records(is_asked_G)
    asked, fold_G = known.asked, known.fold_U[known.asked.user_G]
    tables = [own_table(known, inputs_NI) for inputs_NI in (asked.inputs_NI, stack_inputs(task, asked, scores_N))]
    without_FI, with_FI = (
        np.stack([fit_choice_weights(table.select(fold_G != fold)) for fold in _folds(len(folds))]) for table in tables
    )
    model = replace(bare, with_FI=with_FI, without_FI=without_FI)
    logs = [model.log_probabilities(task, asked, known.fold_U, each) for each in (None, scores_N)]
    losses = [-each[known.right_places] for each in logs]
    qualities = [qualities_of(task, each, asked, known.labels_G) for each in logs]
    return replace(model, gain=_gain_of(asked.user_G, losses[0] - losses[1], qualities[1] - qualities[0]))


def fit_own_model(task: Task, records: OwnRecords, num_folds: int, seed: int) -> OwnModel:
    """Fit the model in this process, fold by fold."""
    space = own_space(records)
    folds = [fit_own_fold(task, records, space, fold, seed) for fold in _folds(num_folds + 1)]
    return join_own_folds(task, records, space, folds)


def chosen_candidates(task: Task, logs_N: Floats, asked: Segments) -> Ints:
    """Return the place of each text's candidate with the highest expected quality (G), as `hydra_ray.adapt.choosing`
    does; the first of equals.

    Args:
        asked: the texts as segments of their candidates.
    """
    values_N = logs_N
    if is_graded(task):
        values_N = (np.exp(logs_N).reshape(-1, len(task.labels)) @ _label_qualities(task)).ravel()
    best_N = np.flatnonzero(values_N == asked.spread(asked.maxima(values_N)))
    _, firsts = np.unique(asked.piece_of_place[best_N], return_index=True)
    return best_N[firsts] - asked.starts


def qualities_of(task: Task, logs_N: Floats, asked: Asked, labels_G: Ints) -> Floats:
    """Return the quality of the chosen candidate of each text (G).

    Args:
        labels_G: place of each text's right answer among its candidates.
    """
    chosen_G = chosen_candidates(task, logs_N, asked.segments)
    if task.kind == "preference":
        return (chosen_G == labels_G).astype(np.float64)
    return _label_qualities(task)[chosen_G, labels_G]


def _labels_outside(records: OwnRecords, fold: int) -> Ints:
    return records.labels_G[records.fold_U[records.asked.user_G] != fold]


def _constant(task: Task, labels_G: Ints) -> int:
    """Return the label with the highest mean quality, the first without records; of candidates the first."""
    if task.kind == "preference":
        return 0
    return int((_label_qualities(task) @ np.bincount(labels_G, minlength=len(task.labels))).argmax())


def _label_qualities(task: Task) -> Floats:
    """Return the quality of each label where each other one is right (L, L)."""
    return np.array([[quality(task, value, target) for target in task.labels] for value in task.labels])


def _folds(num_models: int) -> list[int]:
    """Return the folds of the training users, and -1 for the model of all of them."""
    return [*range(num_models - 1), -1]


def _gain_of(user_G: Ints, losses_G: Floats, qualities_G: Floats) -> PredictedGain:
    users, places_G = np.unique(user_G, return_inverse=True)
    if not len(users):
        nothing = Interval(value=0.0, low=None, high=None)
        return PredictedGain(num_users=0, num_records=0, loss=nothing, quality=nothing)
    num_U = np.bincount(places_G)
    means_U2 = np.stack([np.bincount(places_G, each) / num_U for each in (losses_G, qualities_G)], axis=1)
    observed, resampled = resampled_means(np.ones(len(users)), means_U2, NUM_RESAMPLES, 0)
    loss, rise = (interval(float(observed[place]), resampled[:, place], CONFIDENCE, len(users)) for place in range(2))
    return PredictedGain(num_users=len(users), num_records=len(user_G), loss=loss, quality=rise)
