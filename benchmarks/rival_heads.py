"""Alternatives that the benchmark of heads compares with: a loop of scikit-learn, and the published procedure.

Shape suffixes: U users, N rows, D features, W hidden units, R code width.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hydra_ray.retrieve.dense import Encode
from hydra_ray.scorer.linear.groups import Floats, GroupTable, Ints, starts_of
from hydra_ray.scorer.linear.losses import LOGISTIC
from hydra_ray.scorer.linear.newton import Regression


def rows_alone(num_users: int, num_rows: int, variances_R: Floats, seed: int) -> GroupTable:
    """Simulate users who accept or reject each row by their own code; every row is a group."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_users, num_rows, len(variances_R)))
    codes = rng.normal(size=(num_users, len(variances_R))) * np.sqrt(variances_R)
    targets = (np.einsum("unr,ur->un", inputs, codes) + rng.logistic(size=(num_users, num_rows)) > 0).astype(float)
    return GroupTable(
        features_ND=inputs.reshape(num_users * num_rows, -1),
        targets_N=targets.ravel(),
        qualities_N=targets.ravel(),
        group_starts=np.arange(num_users * num_rows + 1),
        user_starts=starts_of([num_rows] * num_users),
    )


def our_codes(table: GroupTable, variances_R: Floats) -> Floats:
    """Fit all users at once."""
    return Regression(table, table.features_ND, np.zeros(len(table.targets_N)), LOGISTIC).codes(variances_R)


def sklearn_codes(table: GroupTable, variances_R: Floats) -> Floats:
    """Fit one LogisticRegression per user with the same objective: the prior scales the features."""
    from sklearn.linear_model import LogisticRegression

    deviations_R = np.sqrt(variances_R)
    codes = np.zeros((table.num_users, len(variances_R)))
    starts = table.group_starts[table.user_starts]
    for user in range(table.num_users):
        rows = slice(starts[user], starts[user + 1])
        if len(np.unique(table.targets_N[rows])) < 2:
            # scikit-learn refuses users of one class.
            codes[user] = np.nan
            continue
        model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-6)
        codes[user] = model.fit(table.features_ND[rows] * deviations_R, table.targets_N[rows]).coef_[0] * deviations_R
    return codes


def timed_codes(
    fit: Callable[[GroupTable, Floats], Floats], variances_R: Floats, num_rounds: int, table: GroupTable
) -> tuple[float, Floats]:
    """Return the median seconds of a fit, and its codes; imports and first calls are not timed."""
    fit(table.select(table.user_of_group() < 20), variances_R)
    seconds, codes = [], np.zeros(0)
    for _ in range(num_rounds):
        started = time.monotonic()
        codes = fit(table, variances_R)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds), codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Settings of the published procedure."""

    width: int
    """Number of hidden units of a head."""
    num_epochs: int
    batch_size: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


class StackedHeads(torch.nn.Module):
    """Two-layer networks of all users in stacked tensors; a one-hot mask over all users selects a row's own."""

    def __init__(self, num_users: int, num_features: int, width: int) -> None:
        super().__init__()
        self.inward_UDW = torch.nn.Parameter(torch.randn(num_users, num_features, width) * num_features**-0.5)
        self.bias_UW = torch.nn.Parameter(torch.zeros(num_users, width))
        self.outward_UW = torch.nn.Parameter(torch.randn(num_users, width) * width**-0.5)

    def forward(self, features_ND: torch.Tensor, mask_NU: torch.Tensor) -> torch.Tensor:
        """Return each row's score by the head of its user; every head computes every row."""
        hidden_UNW = torch.relu(features_ND @ self.inward_UDW + self.bias_UW[:, None])
        scores_UN = (hidden_UNW @ self.outward_UW[:, :, None])[:, :, 0]
        return (scores_UN.T * mask_NU).sum(dim=1)


def train_published(
    texts: Sequence[str], user_N: Ints, targets_N: Floats, encode: Encode, num_users: int, settings: Published
) -> StackedHeads:
    """Train the heads of all users; the frozen encoder runs again on every batch of every epoch."""
    torch.manual_seed(0)
    heads = StackedHeads(num_users, encode(texts[:1]).shape[1], settings.width)
    optimizer = torch.optim.AdamW(heads.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    mask_NU, targets = torch.eye(num_users)[torch.from_numpy(user_N)], torch.from_numpy(targets_N).float()
    for _ in range(settings.num_epochs):
        for rows in torch.randperm(len(texts)).split(settings.batch_size):
            batch: list[int] = rows.tolist()
            features_ND = torch.from_numpy(encode([texts[row] for row in batch]))
            scores_N = heads(features_ND, mask_NU[rows])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores_N, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return heads


def fit_ours(table: GroupTable, texts: Sequence[str], encode: Encode, variances_R: Floats) -> Floats:
    """Encode once, project to R directions, and fit all users."""
    features_ND = encode(texts)
    basis_DR = np.linalg.qr(np.random.default_rng(0).normal(size=(features_ND.shape[1], len(variances_R))))[0]
    inputs_NR = features_ND @ basis_DR
    return Regression(table, inputs_NR, np.zeros(len(texts)), LOGISTIC).codes(variances_R)
