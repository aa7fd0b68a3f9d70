"""Training objectives of a base: with a shared head and a low-rank deviation of each training user, or with each
training user's own network.

Shape suffixes: N candidates of a batch, G its groups, C candidates of the largest group, D features, R rank, U users.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from hydra_ray.config import BaseConfig
from hydra_ray.rows import Candidate
from hydra_ray.scorer.base.batches import TrainingGroup
from hydra_ray.scorer.base.model import Base
from hydra_ray.scorer.linear.groups import GroupTable, starts_of
from hydra_ray.scorer.linear.prior import within_group_scales
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS, Widths, fit_shared_heads
from hydra_ray.scorer.networks import random_networks, score_rows

Loss = Literal["query", "pointwise"]
"""See `forward` of `TrainingModel`."""

CODE_WIDTH = 8
CODE_LEARNING_RATE = 0.02
"""Learning rate of the codes. A code gets one gradient for each of its user's groups, far too few for the rate of the
shared parameters.
"""
CODE_DECAY = 0.3
"""Weight decay of the codes: their Gaussian prior."""
EVALUATED_GROUPS = 64
"""Number of groups scored at once without gradients."""


class TrainingModel(nn.Module, ABC):
    """A base and the heads of the training users, with the loss of their scores."""

    def __init__(self, base: Base, loss: Loss) -> None:
        super().__init__()
        self.base = base
        self.loss = loss

    @abstractmethod
    def scores(
        self, features: torch.Tensor, training_groups: Sequence[TrainingGroup], *, is_personal: bool
    ) -> torch.Tensor:
        """Return the scores of all candidates (N), group by group.

        Args:
            features: those of the candidates (N, D).
            is_personal: whether by each user's own head, or by the shared one.
        """

    @abstractmethod
    def head_parameters(self, config: BaseConfig) -> list[dict[str, Any]]:
        """Return the parameters of the heads with their learning rates and weight decays."""

    def features(self, training_groups: Sequence[TrainingGroup]) -> torch.Tensor:
        """Return the features of all candidates (N, D), group by group."""
        queries = [each.group.query for each in training_groups for _ in each.group.candidates]
        candidates = candidates_of(training_groups)
        learned = self.base.learned_features(queries, [candidate.text for candidate in candidates])
        plain = torch.tensor([candidate.plain for candidate in candidates])
        return torch.cat([learned, self.base.plain_features(plain)], dim=1)

    def forward(self, training_groups: Sequence[TrainingGroup], *, is_personal: bool = True) -> torch.Tensor:
        """Return the loss of each group (G).

        "query": cross-entropy of the group's targets and the softmax of its scores. "pointwise": mean binary
        cross-entropy of each candidate's quality. Without groups: a zero that depends on all trained parameters.
        """
        if not training_groups:
            return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum(0, keepdim=True) * 0.0
        features = self.features(training_groups)
        scores = self.scores(features, training_groups, is_personal=is_personal)
        lengths = lengths_of(training_groups)
        if self.loss == "pointwise":
            qualities = [candidate.quality for candidate in candidates_of(training_groups)]
            wanted = torch.tensor(qualities, device=features.device)
            losses = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
            return torch.stack([own.mean() for own in losses.split(lengths)])
        # Padding has a score of -inf and a target of 0, whose product would be NaN.
        padded = nn.utils.rnn.pad_sequence(list(scores.split(lengths)), batch_first=True, padding_value=-torch.inf)
        targets = nn.utils.rnn.pad_sequence(
            [torch.tensor(each.targets, device=features.device) for each in training_groups],
            batch_first=True,
        )
        return -(torch.where(targets > 0, padded.log_softmax(1), 0.0) * targets).sum(1)

    def parameter_groups(self, config: BaseConfig) -> list[dict[str, Any]]:
        """Return the trained parameters with their learning rates and weight decays."""
        shared = [p for p in self.base.parameters() if p.requires_grad]
        return [
            {"params": shared, "lr": config.learning_rate, "weight_decay": config.weight_decay},
            *self.head_parameters(config),
        ]


class LowRankTraining(TrainingModel):
    """Scorer with score(x, u) = (w + B a_u)' x of features x; the codes a_u start at zero."""

    def __init__(self, base: Base, num_users: int, loss: Loss = "query") -> None:
        super().__init__(base, loss)
        self.weights = nn.Parameter(torch.zeros(base.num_features))
        self.basis = nn.Parameter(torch.randn(base.num_features, CODE_WIDTH) * base.num_features**-0.5)
        self.codes = nn.Embedding(num_users, CODE_WIDTH)
        nn.init.zeros_(self.codes.weight)

    def scores(
        self, features: torch.Tensor, training_groups: Sequence[TrainingGroup], *, is_personal: bool
    ) -> torch.Tensor:
        """See `TrainingModel`."""
        scores = features @ self.weights
        if not is_personal:
            return scores
        users = torch.tensor([each.user_index for each in training_groups], device=features.device)
        lengths = torch.tensor(lengths_of(training_groups), device=features.device)
        codes = self.codes(users).repeat_interleave(lengths, dim=0)
        return scores + ((features @ self.basis) * codes).sum(1)

    def head_parameters(self, config: BaseConfig) -> list[dict[str, Any]]:
        """See `TrainingModel`."""
        return [
            {"params": [self.weights, self.basis], "lr": config.learning_rate, "weight_decay": 0.0},
            {"params": [self.codes.weight], "lr": CODE_LEARNING_RATE, "weight_decay": CODE_DECAY},
        ]


class NetworkTraining(TrainingModel):
    """Scorer with a two-layer network of each user's own, as published: the base learns under all of them, from the
    first step, and nothing else is shared. Dropout is the encoder's."""

    def __init__(self, base: Base, num_users: int, loss: Loss = "pointwise") -> None:
        super().__init__(base, loss)
        self._dropout: float = getattr(base.encoder.config, "hidden_dropout_prob", 0.0)
        # Only the batch's networks are looked up, at a cost that does not grow with the number of users.
        self.networks = nn.Parameter(random_networks(num_users, base.num_features, base.num_features, None))

    def scores(
        self, features: torch.Tensor, training_groups: Sequence[TrainingGroup], *, is_personal: bool
    ) -> torch.Tensor:
        """See `TrainingModel`."""
        assert is_personal, "no network is shared, so no user may be held out"
        users = torch.tensor([each.user_index for each in training_groups], device=features.device)
        lengths = lengths_of(training_groups)
        padded_GCD = nn.utils.rnn.pad_sequence(list(features.split(lengths)), batch_first=True)
        dropout = self._dropout if self.training else 0.0
        scores_GC = score_rows(padded_GCD, self.networks[users], self.base.num_features, dropout)
        return torch.cat([own[:length] for own, length in zip(scores_GC, lengths, strict=True)])

    def head_parameters(self, config: BaseConfig) -> list[dict[str, Any]]:
        """See `TrainingModel`."""
        return [{"params": [self.networks], "lr": config.learning_rate, "weight_decay": config.weight_decay}]


def candidates_of(training_groups: Sequence[TrainingGroup]) -> list[Candidate]:
    """Return all candidates, group by group."""
    return [candidate for each in training_groups for candidate in each.group.candidates]


def lengths_of(training_groups: Sequence[TrainingGroup]) -> list[int]:
    """Return the number of candidates of each group."""
    return [len(each.group.candidates) for each in training_groups]


@torch.inference_mode()
def frozen_table(training_model: TrainingModel, training_groups: Iterator[TrainingGroup]) -> GroupTable:
    """Return the training groups with the untrained base's features; consecutive groups of a user belong together."""
    training_model.eval()
    pieces, targets, qualities, lengths, users = [], [], [], [], []
    while batch := list(islice(training_groups, EVALUATED_GROUPS)):
        pieces.append(training_model.features(batch).float().cpu().numpy())
        targets.extend(each.targets for each in batch)
        qualities.extend([candidate.quality for candidate in each.group.candidates] for each in batch)
        lengths.extend(len(each.targets) for each in batch)
        users.extend(each.user_index for each in batch)
    num_features = training_model.base.num_features
    return GroupTable(
        features_ND=np.concatenate([np.zeros((0, num_features), np.float32), *pieces]),
        targets_N=np.concatenate([np.zeros(0), *targets]),
        qualities_N=np.concatenate([np.zeros(0), *qualities]),
        group_starts=starts_of(lengths),
        user_starts=starts_of(np.unique(users, return_counts=True)[1]),
    )


@torch.inference_mode()
def user_losses(training_model: TrainingModel, training_groups: Iterator[TrainingGroup]) -> np.ndarray:
    """Return each user's mean loss under the shared head, in the order of the users."""
    training_model.eval()
    losses, users = [], []
    while batch := list(islice(training_groups, EVALUATED_GROUPS)):
        losses.extend(training_model(batch, is_personal=False).tolist())
        users.extend(each.user_index for each in batch)
    _, places = np.unique(users, return_inverse=True)
    return np.bincount(places, weights=losses) / np.maximum(np.bincount(places), 1)


def ridge_head(table: GroupTable, width: int, seed: int) -> np.ndarray:
    """Return the shared head's ridge weights for frozen features (D): initial value and baseline of training."""
    scales = within_group_scales(table)
    scaled = table.scaled(scales)
    everyone = np.ones(table.num_users, bool)
    is_pseudo_G = np.ones(table.num_groups, bool)  # training takes all queries alike
    user_fold_U = np.arange(table.num_users) % NUM_USER_FOLDS
    return fit_shared_heads(scaled, is_pseudo_G, user_fold_U, Widths(width), everyone, seed)[0].weights_D / scales


def join_tables(tables: Sequence[GroupTable]) -> GroupTable:
    """Concatenate the tables of different users."""
    return GroupTable(
        features_ND=np.concatenate([table.features_ND for table in tables]),
        targets_N=np.concatenate([table.targets_N for table in tables]),
        qualities_N=np.concatenate([table.qualities_N for table in tables]),
        group_starts=starts_of(np.concatenate([np.diff(table.group_starts) for table in tables])),
        user_starts=starts_of(np.concatenate([np.diff(table.user_starts) for table in tables])),
    )
