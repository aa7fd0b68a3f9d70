"""The head prior, estimated from training users: shared heads, basis of deviations from them, prior variances.

Empirical Bayes. User u deviates from the shared head by delta_u ~ N(0, Sigma). Sigma is estimated by expectation
maximization with an inverse-Wishart prior around a diagonal S that maximizes the marginal likelihood, so that few users
can make it neither collapse nor explode:

    Sigma <- (sum_u [E(delta_u) E(delta_u)' + Cov(delta_u)] + PRIOR_USERS * S) / (U + PRIOR_USERS)

with Laplace posteriors of delta_u. The leading eigenvectors of Sigma are the basis B, the eigenvalues the variances of
the codes; one common factor for them is chosen on held-out groups. Deviations are measured from shared heads that were
fitted without the user (cross-fitting), as a new user's will be.

Shape suffixes: U users, G groups, N candidates, D features, R rank, H width of history vectors, E routed heads, V
parameters of a flat network, F folds of training users, Q principal components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from hydra_ray import storage
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, group_losses
from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.routed import RoutedHeads, fit_routed_heads, rescaled, routed_scores
from hydra_ray.scorer.linear.shared import SharedHead, Widths, fit_shared_heads, search
from hydra_ray.scorer.linear.support import Support, held_out_scores
from hydra_ray.seeds import rng_of
from hydra_ray.storage.arrays import read_arrays, write_arrays

START_VARIANCES = (1e-4, 1e-3, 0.01, 0.1, 1.0)
"""Candidates for the variances of the users' deviations (the diagonal S)."""
VARIANCE_FACTORS = (0.0, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Candidates for the factor that corrects the estimated variances, chosen on left-out users: the Laplace approximation
makes them too small where users have few groups and differ much, and a basis learned from few users too large.
"""
MAX_COVARIANCE_STEPS = 100
COVARIANCE_TOLERANCE = 0.01
"""Relative change of every variance at convergence. A direction that few groups show grows slowly from its small start.
"""
PRIOR_USERS = 3.0
"""Pseudo-count, in users, of the inverse-Wishart prior. The smaller, the sooner a direction is found that users share;
overfitted directions are left to `choose_factors`.
"""
MAX_SEARCH_USERS = 100
"""Number of users on whom start variances are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPrior:
    """Shared heads, basis of deviations and prior variances of codes, for features as they are stored."""

    base_fingerprint: str
    scales_D: Floats
    """Standard deviation of each feature within a group."""
    query_head: SharedHead
    pseudo_head: SharedHead
    basis_DR: Floats
    """Basis for the largest rank; smaller ranks use its first columns."""
    variances: Mapping[int, Floats]
    """Prior variances of the code, by rank."""
    network_V: Floats
    """Shared two-layer network that paper heads start from; empty if there are none."""
    routed: RoutedHeads | None
    """Routed heads, to whose scores codes add; None if they do not lower the validation loss."""
    fingerprint: str = ""
    """Name by which codes tell the prior that they are valid for; empty until it is stored."""

    def shared_scores(self, features_ND: Floats, is_pseudo_N: Bools, user_fold_N: Ints) -> Floats:
        """Return each candidate's score by the shared head of its kind of query (N).

        Args:
            user_fold_N: fold of each candidate's user if the head was trained on the user; -1 for new users.
        """
        pseudo_N = self.pseudo_head.scores(features_ND, user_fold_N)
        return np.where(is_pseudo_N, pseudo_N, self.query_head.scores(features_ND, user_fold_N))

    def routes(
        self, histories_GH: Floats, user_fold_G: Ints, features_ND: Floats, user_fold_N: Ints
    ) -> tuple[Floats, Floats]:
        """Return each group's mixture weights (G, E) and the increment of each routed head to each candidate's score
        (N, E); of width 0 without routed heads.

        Args:
            histories_GH: mean vector of the records that may be used for each group's query.
            user_fold_G: as in `shared_scores`, for each group.
            user_fold_N: as in `shared_scores`.
        """
        if self.routed is None or not len(histories_GH):
            return np.zeros((len(histories_GH), 0)), np.zeros((len(features_ND), 0))
        return self.routed.mixtures(histories_GH, user_fold_G), self.routed.added(features_ND, user_fold_N)

    def write(self, folder: str, fingerprint: str) -> None:
        """Write the prior to `folder`, its description last."""
        arrays = {"scales": self.scales_D, "basis": self.basis_DR, "network": self.network_V}
        for name, head in (("query", self.query_head), ("pseudo", self.pseudo_head)):
            arrays |= {f"{name}.weights": head.weights_D, f"{name}.left_out": head.left_out_FD}
        if self.routed is not None:
            arrays |= {stored: getattr(self.routed, name) for name, stored in _ROUTED_ARRAYS.items()}
        arrays |= {f"variances.{rank}": values for rank, values in self.variances.items()}
        digest = write_arrays(storage.join(folder, _ARRAYS), arrays)
        description = {
            "base_fingerprint": self.base_fingerprint,
            "fingerprint": fingerprint,
            "ranks": sorted(self.variances),
            "variances": {str(rank): np.round(values, 6).tolist() for rank, values in self.variances.items()},
            _DIGEST: digest,
        }
        storage.write_json(storage.join(folder, DESCRIPTION), description)


_ARRAYS = "population.safetensors"
DESCRIPTION = "population.json"
_DIGEST = "digest"
"""Key in the description: the digest of the arrays' file."""
_ROUTED_ARRAYS = {
    "deviations_FED": "routed.deviations_KED",
    "gate_FEQ": "routed.gate_KEP",
    "gate_bias_FE": "routed.gate_bias_KE",
    "means_H": "routed.means_H",
    "components_QH": "routed.components_PH",
}
"""Name in the file of each array of the routed heads."""


def read_prior(folder: str) -> HeadPrior:
    """Read the head prior stored at `folder`.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    description = read_description(folder)
    arrays = read_arrays(storage.join(folder, _ARRAYS), _ANEW, description.get(_DIGEST))
    return HeadPrior(
        base_fingerprint=description["base_fingerprint"],
        scales_D=arrays["scales"],
        query_head=SharedHead(weights_D=arrays["query.weights"], left_out_FD=arrays["query.left_out"]),
        pseudo_head=SharedHead(weights_D=arrays["pseudo.weights"], left_out_FD=arrays["pseudo.left_out"]),
        basis_DR=arrays["basis"],
        variances={rank: arrays[f"variances.{rank}"] for rank in description["ranks"]},
        network_V=arrays["network"],
        routed=_routed_of(arrays),
        fingerprint=description["fingerprint"],
    )


_ANEW = "Remove the folder, and the stage's manifest.json, and run again: only the heads are fitted anew."


def read_description(folder: str) -> dict[str, Any]:
    """Return the description of the head prior stored at `folder`.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    shape = {"base_fingerprint": str, "fingerprint": str, "ranks": list}
    return storage.read_json(storage.join(folder, DESCRIPTION), shape)


def _routed_of(arrays: Mapping[str, Floats]) -> RoutedHeads | None:
    is_stored = any(stored in arrays for stored in _ROUTED_ARRAYS.values())
    return RoutedHeads(**{name: arrays[stored] for name, stored in _ROUTED_ARRAYS.items()}) if is_stored else None


def feature_weights(head_prior: HeadPrior, handcrafted_names: Sequence[str]) -> list[tuple[str, float]]:
    """Return each handcrafted feature's weight in the shared head of queries, per standard deviation within a query.

    Args:
        handcrafted_names: names of the handcrafted features, which are the last ones.
    """
    weights = head_prior.query_head.weights_D * head_prior.scales_D
    return list(zip(handcrafted_names, weights[len(weights) - len(handcrafted_names) :].tolist(), strict=True))


def within_group_scales(table: GroupTable) -> Floats:
    """Return each feature's standard deviation around its group's mean (D); 1 where it is constant within groups."""
    if not table.num_groups:
        return np.ones(table.features_ND.shape[1])
    features = table.features_ND.astype(np.float64)
    lengths = np.diff(table.group_starts)[:, None]
    means = np.add.reduceat(features, table.group_starts[:-1], axis=0) / lengths
    centred = features - means[table.group_of_candidate()]
    variances = (centred**2).mean(axis=0)
    return np.sqrt(np.where(variances > 1e-10, variances, 1.0))


def estimate_deviations(table: GroupTable, offsets_N: Floats, start_D: Floats) -> tuple[Floats, Floats]:
    """Estimate the covariance of users' deviations by EM; return its eigenvectors as columns (D, D) and its eigenvalues
    (D), the largest first.

    The largest weight of each direction is positive: eigenvectors have no sign of their own, and codes must agree
    between runs with the same training users.

    Args:
        table: every group has a target; features have standard deviation about 1 within a group.
        offsets_N: cross-fitted scores that codes add to.
        start_D: diagonal S of the inverse-Wishart prior (see `start_variances`).
    """
    from sklearn.utils.extmath import svd_flip

    num_features = table.features_ND.shape[1]
    covariance = np.diag(start_D)
    deviations_UD = np.zeros((table.num_users, num_features))
    values, directions = np.linalg.eigh(covariance)
    for _ in range(MAX_COVARIANCE_STEPS):
        regression = Regression(table, table.features_ND @ directions, offsets_N)
        fit = regression.posterior(np.maximum(values, 0), deviations_UD @ directions)
        deviations_UD = fit.codes_UR @ directions.T
        moments = fit.codes_UR.T @ fit.codes_UR + fit.covariances().sum(axis=0)
        observed = directions @ moments @ directions.T
        # Posterior mean under the inverse-Wishart prior.
        covariance = (observed + PRIOR_USERS * np.diag(start_D)) / (table.num_users + PRIOR_USERS)
        before, (values, directions) = values, np.linalg.eigh(covariance)
        if np.allclose(values, before, rtol=COVARIANCE_TOLERANCE, atol=1e-6):
            break
    signed, _ = svd_flip(directions[:, ::-1], None)
    return signed, np.maximum(values[::-1], 0)


def choose_factors(
    table: GroupTable,
    offsets_N: Floats,
    start_D: Floats,
    user_half_U: Ints,
    is_validation_U: Bools,
    fold_G: Ints,
    ranks: Sequence[int],
) -> dict[int, float]:
    """Choose for each rank the factor of the prior variances with the lowest loss on held-out groups of users who were
    not used to estimate the basis.

    The validation users in each half of the users evaluate what the other half estimates: a basis fits the users it was
    learned from far too well. The factor is 0, which keeps all codes at 0, where codes lower no loss or no users are
    left to estimate from.

    Args:
        is_validation_U: users whom the base was not trained on.
    """
    losses = {rank: dict.fromkeys(VARIANCE_FACTORS, 0.0) for rank in ranks}
    half_G, is_validation_G = user_half_U[table.user_of_group()], is_validation_U[table.user_of_group()]
    for half in np.unique(half_G[is_validation_G]):
        training_G, validation_G = half_G != half, (half_G == half) & is_validation_G
        training_table, validation_table = table.select(training_G).without_empty_users(), table.select(validation_G)
        if not training_table.num_groups:
            return dict.fromkeys(ranks, 0.0)
        support = Support.of_folds(fold_G[validation_G])
        training_N, validation_N = (is_kept_G[table.group_of_candidate()] for is_kept_G in (training_G, validation_G))
        directions, values = estimate_deviations(training_table, offsets_N[training_N], start_D)
        for rank in ranks:
            inputs_NR = validation_table.features_ND @ directions[:, :rank]
            regression = Regression(validation_table, inputs_NR, offsets_N[validation_N])
            for factor in VARIANCE_FACTORS:
                scores_N = held_out_scores(regression, factor * values[:rank], support)
                losses[rank][factor] += float(group_losses(validation_table, scores_N).sum())
    return {rank: min(own, key=own.__getitem__) for rank, own in losses.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroups:
    """Groups of the training users from which the head prior is estimated."""

    table: GroupTable
    """Groups, each of which has a target."""
    is_pseudo_G: Bools
    fold_G: Ints
    """Fold of each group among its user's."""
    histories_GH: Floats
    """Mean vector of the records that may be used for each group's query; of width 0 where unknown."""
    user_fold_U: Ints
    is_validation_U: Bools
    """Users whom the base was not trained on."""

    def without_empty_users(self) -> "TrainingGroups":
        """Return the same groups without the users who have none."""
        has_groups_U = np.diff(self.table.user_starts) > 0
        return replace(
            self,
            table=self.table.without_empty_users(),
            user_fold_U=self.user_fold_U[has_groups_U],
            is_validation_U=self.is_validation_U[has_groups_U],
        )


def fit_prior(
    groups: TrainingGroups, widths: Widths, ranks: Sequence[int], seed: int, base_fingerprint: str
) -> HeadPrior:
    """Estimate the head prior from the training users' groups, without the network of paper heads.

    Args:
        ranks: code widths to estimate variances for; empty where no low-rank head is fitted.

    Raises:
        TrainingError: there is no group to fit on.
    """
    groups = groups.without_empty_users()
    scales = within_group_scales(groups.table)
    scaled, is_validation_U, user_fold_U = groups.table.scaled(scales), groups.is_validation_U, groups.user_fold_U
    heads = fit_shared_heads(scaled, groups.is_pseudo_G, user_fold_U, widths, is_validation_U, seed)
    query_head, pseudo_head = heads
    user_fold_N, is_pseudo_N = user_fold_U[scaled.user_of_candidate()], groups.is_pseudo_G[scaled.group_of_candidate()]
    offsets_N = np.where(
        is_pseudo_N,
        pseudo_head.scores(scaled.features_ND, user_fold_N),
        query_head.scores(scaled.features_ND, user_fold_N),
    )
    routed = None
    if groups.histories_GH.shape[1]:
        # Where the base was trained on nobody, one fold of users validates.
        validation_U = user_fold_U == 0 if is_validation_U.all() else is_validation_U
        routed = fit_routed_heads(scaled, offsets_N, groups.histories_GH, validation_U, user_fold_U, seed)
    if routed is not None:
        mixtures_GE = routed.mixtures(groups.histories_GH, user_fold_U[scaled.user_of_group()])
        added_NE = routed.added(scaled.features_ND, user_fold_N)
        offsets_N = routed_scores(offsets_N, added_NE, mixtures_GE[scaled.group_of_candidate()])
        routed = rescaled(routed, scales)
    basis = np.zeros((len(scales), 0))
    variances: dict[int, Floats] = {}
    if ranks:
        start_D = start_variances(scaled, offsets_N, widths.learned, seed)
        directions, values = estimate_deviations(scaled, offsets_N, start_D)
        basis = directions[:, : max(ranks)]
        distinct = sorted({min(rank, len(scales)) for rank in ranks})
        factors = choose_factors(scaled, offsets_N, start_D, user_fold_U % 2, is_validation_U, groups.fold_G, distinct)
        variances = {rank: factor * values[:rank] for rank, factor in factors.items()}
    query_head, pseudo_head = (
        SharedHead(weights_D=head.weights_D / scales, left_out_FD=head.left_out_FD / scales) for head in heads
    )
    return HeadPrior(
        base_fingerprint=base_fingerprint,
        scales_D=scales,
        query_head=query_head,
        pseudo_head=pseudo_head,
        basis_DR=basis / scales[:, None],
        variances=variances,
        network_V=np.zeros(0),
        routed=routed,
    )


def start_variances(table: GroupTable, offsets_N: Floats, num_learned: int, seed: int) -> Floats:
    """Choose one variance for the learned features and one for the handcrafted ones by marginal likelihood (D)."""
    is_kept_G = _sample_groups(table, seed)
    offsets_N = offsets_N[is_kept_G[table.group_of_candidate()]]
    table = table.select(is_kept_G)
    num_plain = table.features_ND.shape[1] - num_learned

    def spread(pair: _Variances) -> Floats:
        return np.repeat([pair.learned, pair.plain], (num_learned, num_plain))

    regression = Regression(table, table.features_ND, offsets_N)
    nearest = np.zeros((table.num_users, table.features_ND.shape[1]))

    def cost(pair: _Variances) -> float:
        fit = regression.posterior(spread(pair), nearest)
        nearest[:] = fit.codes_UR
        return -float(fit.evidences().sum())

    values = {
        "plain": START_VARIANCES if num_plain else [0.0],
        "learned": START_VARIANCES if num_learned else [0.0],
    }
    return spread(search(cost, _Variances(1e-3, 0.03), values))


class _Variances(NamedTuple):
    learned: float
    plain: float


def _sample_groups(table: GroupTable, seed: int) -> Bools:
    """Return a mask of the groups of at most MAX_SEARCH_USERS users."""
    chosen = rng_of(seed, "search").permutation(table.num_users)[:MAX_SEARCH_USERS]
    return np.isin(table.user_of_group(), chosen)
