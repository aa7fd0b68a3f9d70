"""Head kinds: how a user's code is fitted, and its effect on a candidate's score.

shared: s = offset. lowrank: s = offset + (B' x)' a_u. paper: s = two-layer network of the user applied to x, as it is.

Shape suffixes: U users, G groups, N candidates, D features, R code width (of a paper head V, the parameters of its
network), F held-out folds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.config import HeadsConfig
from hydra_ray.scorer.heads.projection import ProjectedPart
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints
from hydra_ray.scorer.linear.newton import Belief, Regression
from hydra_ray.scorer.linear.prior import HeadPrior


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Codes of some users."""

    codes_UR: Floats
    precisions_UR: Floats
    """Posterior precisions of the codes (see `Belief`); of width 0 where there is no posterior."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadKind:
    """One kind of head with its settings. Key: name."""

    name: str
    kind: str
    rank: int
    """Width of a low-rank code; 0 for other kinds."""
    settings: HeadsConfig

    @property
    def reads_features(self) -> bool:
        """Return whether the kind reads the base's features, and not only their projections."""
        return _KINDS[self.kind].reads_features

    def inputs(self, part: ProjectedPart, head_prior: HeadPrior) -> Floats:
        """Return the inputs of the codes, one row for each candidate."""
        return _KINDS[self.kind].inputs(self, part, head_prior)

    def learned_groups(self, table: GroupTable) -> Bools:
        """Return a mask of the groups that the kind learns from (G): those with a target, and to a paper head that
        judges each candidate alone also those whose qualities are known and equal."""
        has_target_G = table.has_target()
        if self.kind != "paper" or self.settings.paper_loss != "pointwise":
            return has_target_G
        unknown_G = np.bincount(table.group_of_candidate(), np.isnan(table.qualities_N), table.num_groups)
        return has_target_G | ((unknown_G == 0) & (np.diff(table.group_starts) > 0))

    def fit(
        self, table: GroupTable, offsets_N: Floats, head_prior: HeadPrior, fold_G: Ints, folds: Sequence[int]
    ) -> tuple[Fit, list[Floats]]:
        """Return the codes of all users, and the codes (U, R) fitted without each fold.

        Args:
            table: the `learned_groups`; its features are the `inputs`.
            offsets_N: scores that codes add to.
            fold_G: fold of each group.
            folds: folds to leave out in turn.
        """
        return _KINDS[self.kind].fit(self, table, offsets_N, head_prior, [fold_G != fold for fold in folds])

    def scores(self, inputs_ND: Floats, offsets_N: Floats, user_N: Ints, codes_UR: Floats) -> Floats:
        """Return each candidate's score by the code of its user (N)."""
        return _KINDS[self.kind].scores(self, inputs_ND, offsets_N, user_N, codes_UR)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    reads_features: bool
    inputs: Callable[[HeadKind, ProjectedPart, HeadPrior], Floats]
    fit: Callable[[HeadKind, GroupTable, Floats, HeadPrior, Sequence[Bools]], tuple[Fit, list[Floats]]]
    scores: Callable[[HeadKind, Floats, Floats, Ints, Floats], Floats]


def head_kinds(config: HeadsConfig) -> list[HeadKind]:
    """Return the head kinds that a user may get, shared first if it is one of them."""
    found: list[HeadKind] = []
    for kind in _KINDS:
        ranks = sorted(set(config.ranks)) if kind == "lowrank" else [0]
        if kind in config.kinds:
            found += [
                HeadKind(name=f"{kind}-{rank}" if rank else kind, kind=kind, rank=rank, settings=config)
                for rank in ranks
            ]
    return found


def _projected_inputs(head_kind: HeadKind, part: ProjectedPart, _: HeadPrior) -> Floats:
    """Return the first `rank` columns; a rank above the number of features means all directions."""
    return part.table.features_ND[:, : head_kind.rank]


def _linear_scores(_: HeadKind, inputs_NR: Floats, offsets_N: Floats, user_N: Ints, codes_UR: Floats) -> Floats:
    return offsets_N + np.einsum("nr,nr->n", inputs_NR, codes_UR[user_N])


def _fit_shared(
    _: HeadKind, table: GroupTable, __: Floats, ___: HeadPrior, kept_FG: Sequence[Bools]
) -> tuple[Fit, list[Floats]]:
    nothing = np.zeros((table.num_users, 0))
    return Fit(codes_UR=nothing, precisions_UR=nothing), [nothing] * len(kept_FG)


def _fit_lowrank(
    _: HeadKind, table: GroupTable, offsets_N: Floats, head_prior: HeadPrior, kept_FG: Sequence[Bools]
) -> tuple[Fit, list[Floats]]:
    variances_R = head_prior.variances[table.features_ND.shape[1]]
    regression = Regression(table, table.features_ND, offsets_N)
    found = regression.updated(Belief.prior(table.num_users, variances_R))
    left_out = [regression.codes(variances_R, is_kept_G.astype(float), found.codes_UR) for is_kept_G in kept_FG]
    return Fit(codes_UR=found.codes_UR, precisions_UR=found.precisions_UR), left_out


def _paper_inputs(_: HeadKind, part: ProjectedPart, __: HeadPrior) -> Floats:
    return part.features_ND


def _fit_paper(
    head_kind: HeadKind,
    table: GroupTable,
    _: Floats,
    head_prior: HeadPrior,
    kept_FG: Sequence[Bools],
) -> tuple[Fit, list[Floats]]:
    from hydra_ray.scorer.heads.paper import train_networks

    settings = head_kind.settings
    codes, *left_out = (
        train_networks(table, head_prior.network_V, is_kept_G.astype(float), settings, settings.paper_epochs)
        for is_kept_G in [np.ones(table.num_groups, bool), *kept_FG]
    )
    return Fit(codes_UR=codes, precisions_UR=np.zeros((table.num_users, 0))), left_out


def _paper_scores(head_kind: HeadKind, inputs_ND: Floats, _: Floats, user_N: Ints, codes_UR: Floats) -> Floats:
    from hydra_ray.scorer.heads.paper import network_scores

    return network_scores(inputs_ND, user_N, codes_UR, head_kind.settings.paper_width)


_KINDS: Mapping[str, _Kind] = {
    # A code of rank 0 adds nothing.
    "shared": _Kind(reads_features=False, inputs=_projected_inputs, fit=_fit_shared, scores=_linear_scores),
    "lowrank": _Kind(reads_features=False, inputs=_projected_inputs, fit=_fit_lowrank, scores=_linear_scores),
    "paper": _Kind(reads_features=True, inputs=_paper_inputs, fit=_fit_paper, scores=_paper_scores),
}
"""All kinds of heads, in the order in which they are tried."""
