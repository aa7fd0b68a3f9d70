"""The objective of head fitting for very many users at once: losses, gradients and Hessian products by their codes.

Users of similar size share a tensor with one row for each candidate; groups are segments of its rows, so that neither
short groups nor users with few of them are padded to the largest.

Shape suffixes: U users, P rows of the largest user, N all rows, G groups, R code width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, Segments, even_size
from hydra_ray.scorer.linear.losses import Loss

CHUNK_ELEMENTS = 400_000
"""Number of inputs in a chunk of users: with few users, more calls cost more than a cache saves."""
_BLOCK_ELEMENTS = 50_000
"""Number of inputs of which copies are made at once. They fit a cache, and memory that has just been freed: new memory
costs more than what is computed in it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Padded candidates of some users; padding has inputs, offsets and targets of 0 and is in groups of its own."""

    users: Ints
    groups_UP: Ints
    """Index of each row's group; -1 is padding."""
    inputs_UPR: Floats
    offsets_UP: Floats
    targets_UP: Floats
    group_size: int
    """Number of rows of every group, padding too; 0 where they differ."""

    def take(self, places: Ints) -> "Rows":
        """Return the rows of the users at these positions."""
        return Rows(
            users=self.users[places],
            groups_UP=self.groups_UP[places],
            inputs_UPR=self.inputs_UPR[places],
            offsets_UP=self.offsets_UP[places],
            targets_UP=self.targets_UP[places],
            group_size=self.group_size,
        )

    def between(self, start: int, end: int) -> "Rows":
        """Return the rows at positions [start, end) of the second axis; groups must not be cut."""
        return Rows(
            users=self.users,
            groups_UP=self.groups_UP[:, start:end],
            inputs_UPR=self.inputs_UPR[:, start:end],
            offsets_UP=self.offsets_UP[:, start:end],
            targets_UP=self.targets_UP[:, start:end],
            group_size=self.group_size,
        )

    def shifted(self, codes_UR: Floats) -> "Rows":
        """Return the same rows with the scores of these codes added to the offsets."""
        return replace(self, offsets_UP=self.offsets_UP + (self.inputs_UPR @ codes_UR[:, :, None])[:, :, 0])

    def segments(self) -> Segments:
        """Return the groups as segments of the flattened rows."""
        if self.group_size:
            return Segments.even(self.groups_UP.size, self.group_size)
        is_start_UP = np.ones(self.groups_UP.shape, bool)
        is_start_UP[:, 1:] = self.groups_UP[:, 1:] != self.groups_UP[:, :-1]
        return Segments.of(is_start_UP.ravel())


def chunks_of(table: GroupTable, inputs_NR: Floats, offsets_N: Floats) -> Iterator[Rows]:
    """Yield all users who have rows in chunks of similar size: each fits a cache, and at most half of it is padding."""
    row_starts = table.group_starts[table.user_starts]
    lengths, group_N = np.diff(row_starts), table.group_of_candidate()
    group_size = even_size(np.diff(table.group_starts))
    users = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    while len(users):
        longest = lengths[users[0]]
        chunk = users[: max(1, CHUNK_ELEMENTS // int(longest * max(inputs_NR.shape[1], 1)))]
        chunk = chunk[2 * lengths[chunk] > longest]
        users = users[len(chunk) :]
        is_padding = np.arange(longest) >= lengths[chunk][:, None]
        places = np.where(is_padding, 0, row_starts[chunk][:, None] + np.arange(longest))
        yield Rows(
            users=chunk,
            groups_UP=np.where(is_padding, -1, group_N[places]),
            inputs_UPR=_gathered(inputs_NR, places, is_padding),
            offsets_UP=_gathered(offsets_N, places, is_padding),
            targets_UP=_gathered(table.targets_N, places, is_padding),
            group_size=group_size,
        )


def pooled_rows(table: GroupTable, inputs_NR: Floats, offsets_N: Floats) -> Rows:
    """Return all rows as if one user had them; arrays of double precision are not copied."""
    return Rows(
        users=np.zeros(1, np.int64),
        groups_UP=table.group_of_candidate()[None],
        inputs_UPR=inputs_NR[None].astype(np.float64, copy=False),
        offsets_UP=offsets_N[None].astype(np.float64, copy=False),
        targets_UP=table.targets_N[None],
        group_size=even_size(np.diff(table.group_starts)),
    )


def _gathered(values: Floats, places_UP: Ints, is_padding_UP: Bools) -> Floats:
    first = places_UP[0, 0]
    neighbours = values[first : first + places_UP.size]
    if (places_UP.ravel() == np.arange(first, first + places_UP.size)).all():
        return neighbours.reshape(*places_UP.shape, *values.shape[1:]).astype(np.float64, copy=False)
    gathered = values[places_UP].astype(np.float64, copy=False)
    gathered[is_padding_UP] = 0
    return gathered


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Value and derivatives of an objective at some codes."""

    codes_UR: Floats
    scores_UP: Floats
    losses_U: Floats
    """Losses of the rows plus the prior term."""
    slopes_UP: Floats
    """Weighted first derivatives of the rows' costs by the scores."""
    curvatures_UP: Floats
    """Unweighted second derivatives of the rows' costs by the scores."""

    def take(self, places: Ints) -> "State":
        """Return the state of the users at these positions."""
        return State(
            codes_UR=self.codes_UR[places],
            scores_UP=self.scores_UP[places],
            losses_U=self.losses_U[places],
            slopes_UP=self.slopes_UP[places],
            curvatures_UP=self.curvatures_UP[places],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Weighted losses of the rows plus the prior term, half the squared standardized code.

    Codes are in units of the prior's standard deviations, from its mean: the problem is well scaled, a variance of 0
    needs no case of its own, and no curvature is below 1.
    """

    rows: Rows
    groups: Segments
    loss: Loss
    weights_UP: Floats
    deviations_UR: Floats
    """Standard deviations of the prior, for each user or, in one row, for all."""
    bounds_UR: Floats
    """Upper bounds of the diagonals of the rows' Hessians for any codes, if no weight is above 1."""

    @classmethod
    def of(cls, rows: Rows, loss: Loss, deviations_UR: Floats, weights_G: Floats | None) -> "Objective":
        """Build the objective of some rows.

        Args:
            weights_G: weight of each group of the table, 1 if None; 0 leaves a group out.
        """
        weights = (rows.groups_UP >= 0).astype(float) if weights_G is None else np.append(weights_G, 0)[rows.groups_UP]
        squares_UR = np.einsum("upr,upr->ur", rows.inputs_UPR, rows.inputs_UPR)
        return cls(
            rows=rows,
            groups=rows.segments(),
            loss=loss,
            weights_UP=weights,
            deviations_UR=deviations_UR,
            bounds_UR=squares_UR * loss.max_curvature * deviations_UR**2,
        )

    def take(self, places: Ints) -> "Objective":
        """Return the objective of the users at these positions."""
        deviations = self.deviations_UR if len(self.deviations_UR) == 1 else self.deviations_UR[places]
        own = self._with(self.rows.take(places), self.weights_UP[places])
        return replace(own, deviations_UR=deviations, bounds_UR=self.bounds_UR[places])

    def between(self, start: int, end: int) -> "Objective":
        """Return the objective of the rows at positions [start, end); groups must not be cut."""
        return self._with(self.rows.between(start, end), self.weights_UP[:, start:end])

    def score_changes(self, codes_UR: Floats) -> Floats:
        """Return the change of the scores (U, P) that codes make."""
        return (self.rows.inputs_UPR @ (codes_UR * self.deviations_UR)[:, :, None])[:, :, 0]

    def state(self, codes_UR: Floats, scores_UP: Floats | None = None) -> State:
        """Return value and derivatives at the codes; scores are computed if not given."""
        scores = self.rows.offsets_UP + self.score_changes(codes_UR) if scores_UP is None else scores_UP
        costs, slopes, curvatures = (
            each.reshape(scores.shape)
            for each in self.loss.derivatives(scores.ravel(), self.rows.targets_UP.ravel(), self.groups)
        )
        return State(
            codes_UR=codes_UR,
            scores_UP=scores,
            losses_U=np.vecdot(costs, self.weights_UP) + 0.5 * np.vecdot(codes_UR, codes_UR),
            slopes_UP=slopes * self.weights_UP,
            curvatures_UP=curvatures,
        )

    def row_gradients(self, state: State) -> Floats:
        """Return the gradients of the rows' costs by the codes (U, R), without the prior term."""
        return self._code_gradients(state.slopes_UP)

    def row_products(self, changes_UP: Floats, state: State) -> Floats:
        """Return the Hessians of the rows' costs times codes (U, R), given the score changes of these codes."""
        hessian_product = self.loss.hessian_product(changes_UP.ravel(), state.curvatures_UP.ravel(), self.groups)
        return self._code_gradients(hessian_product.reshape(changes_UP.shape) * self.weights_UP)

    def row_hessians(self, state: State) -> Floats:
        """Return the Hessians of the rows' costs by the codes (U, R, R), without the prior term."""
        centred_UPR, weights_UP1 = self._centred(state), (state.curvatures_UP * self.weights_UP)[:, :, None]
        products = (centred_UPR * weights_UP1).transpose(0, 2, 1) @ centred_UPR
        return products * self.deviations_UR[:, :, None] * self.deviations_UR[:, None, :]

    def row_diagonals(self, state: State) -> Floats:
        """Return the diagonals of the Hessians of the rows' costs (U, R)."""
        weights_UP, num_users = state.curvatures_UP * self.weights_UP, len(self.rows.users)
        _, num_rows, width = self.rows.inputs_UPR.shape
        block = max(1, _BLOCK_ELEMENTS // max(1, num_rows * width))
        diagonals_UR = np.empty((num_users, width))
        for start in range(0, num_users, block):
            own = slice(start, min(start + block, num_users))
            inputs_NR, curvatures_N = self.rows.inputs_UPR[own].reshape(-1, width), state.curvatures_UP[own].ravel()
            groups = self.groups.between(own.start * num_rows, own.stop * num_rows)
            squares_NR = self.loss.centred(inputs_NR, curvatures_N, groups) ** 2
            squares_UPR = squares_NR.reshape(-1, num_rows, width)
            diagonals_UR[own] = (weights_UP[own, None] @ squares_UPR)[:, 0]
        return diagonals_UR * self.deviations_UR**2

    def _with(self, rows: Rows, weights_UP: Floats) -> "Objective":
        return replace(self, rows=rows, groups=rows.segments(), weights_UP=weights_UP)

    def _code_gradients(self, slopes_UP: Floats) -> Floats:
        return (slopes_UP[:, None] @ self.rows.inputs_UPR)[:, 0] * self.deviations_UR

    def _centred(self, state: State) -> Floats:
        inputs_UPR = self.rows.inputs_UPR
        flat_NR = inputs_UPR.reshape(-1, inputs_UPR.shape[2])
        return self.loss.centred(flat_NR, state.curvatures_UP.ravel(), self.groups).reshape(inputs_UPR.shape)
