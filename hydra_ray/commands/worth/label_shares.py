"""How much users' labels differ from each other, by counts alone, against what chance makes of the same records.

    I(user; label) = sum_u n_u / N  KL(labels of u, labels of all)

Chance is the mean of the same figure with the labels permuted over all records, which keeps every user's number of
records and every label's; what it leaves is the part that users explain. Who is asked what is a part of it.

Shape suffixes: U users, N records, L labels, P permutations, R resamples, X columns that are summed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.adapt.label_model import labelled_records
from hydra_ray.adapt.own_model import CONFIDENCE, NUM_RESAMPLES
from hydra_ray.config import Task
from hydra_ray.evaluate.intervals import Interval, interval, resampled_sums
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.rows import User
from hydra_ray.scorer.linear.groups import Ints
from hydra_ray.seeds import rng_of

NUM_PERMUTATIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelShares:
    """Figures of users' labels."""

    majority: str
    """Label that is most common overall."""
    other_majority: Interval
    """Share of users who most often give another label than the most common one."""
    other_majority_by_chance: float
    """The same with labels permuted over all records."""
    explained: Interval
    """Share of the labels' entropy that users explain, less what chance explains."""
    p_value: float
    """Share of permutations that explain at least as much as the users do."""


def label_shares(task: Task, users: Sequence[User]) -> LabelShares:
    """Return the figures of users with labelled records, of whom there is at least one."""
    histories = [labelled_records(task, user.history) for user in users]
    labels_N = np.array([task.labels.index(each.output) for own in histories for each in own], np.int64)
    user_N = np.repeat(np.arange(len(users)), [len(own) for own in histories])
    counts_UL = _counts(user_N, labels_N, len(users), len(task.labels))
    rng = rng_of(0, "worth", "labels of chance")
    permuted = [
        _counts(user_N, rng.permutation(labels_N), len(users), len(task.labels)) for _ in range(NUM_PERMUTATIONS)
    ]
    informed_U = _information(counts_UL)
    by_chance_PU = np.stack([_information(each) for each in permuted])
    differs_U = _differs(counts_UL)
    sums_UX = np.concatenate([(informed_U - by_chance_PU.mean(axis=0))[:, None], differs_U[:, None], counts_UL], axis=1)
    observed_X, resampled_RX = resampled_sums(lambda start, stop: sums_UX[start:stop], len(users), NUM_RESAMPLES, 0)
    explained = interval(float(_explained(observed_X[None])[0]), _explained(resampled_RX), CONFIDENCE, len(users))
    other = interval(float(differs_U.mean()), resampled_RX[:, 1] / len(users), CONFIDENCE, len(users))
    num_as_much = int((by_chance_PU.sum(axis=1) >= informed_U.sum() - 1e-9).sum())
    return LabelShares(
        majority=task.labels[int(counts_UL.sum(axis=0).argmax())],
        other_majority=other,
        other_majority_by_chance=float(np.mean([_differs(each).mean() for each in permuted])),
        explained=explained,
        p_value=(1 + num_as_much) / (1 + NUM_PERMUTATIONS),
    )


def _counts(user_N: Ints, labels_N: Ints, num_users: int, num_labels: int) -> Floats:
    cells = np.bincount(user_N * num_labels + labels_N, minlength=num_users * num_labels)
    return cells.reshape(num_users, num_labels).astype(np.float64)


def _information(counts_UL: Floats) -> Floats:
    """Return each user's summand of the mutual information, times the number of records, in nats (U)."""
    expected_UL = counts_UL.sum(axis=1, keepdims=True) * counts_UL.sum(axis=0) / counts_UL.sum()
    logs_UL = np.log(np.where(counts_UL > 0, counts_UL, 1.0) / np.where(counts_UL > 0, expected_UL, 1.0))
    return (counts_UL * logs_UL).sum(axis=1)


def _differs(counts_UL: Floats) -> Floats:
    """Return 1 for each user who gives some label more often than the most common one of all, else 0 (U)."""
    majority = int(counts_UL.sum(axis=0).argmax())
    return (counts_UL.max(axis=1) > counts_UL[:, majority]).astype(np.float64)


def _explained(sums_RX: Floats) -> Floats:
    """Return the share of the labels' entropy that is explained (R), of sums of (information, differs, counts)."""
    counts_RL = sums_RX[:, 2:]
    shares_RL = counts_RL / counts_RL.sum(axis=1, keepdims=True)
    entropy_R = -(shares_RL * np.log(np.where(shares_RL > 0, shares_RL, 1.0))).sum(axis=1)
    return sums_RX[:, 0] / counts_RL.sum(axis=1) / np.maximum(entropy_R, 1e-9)
