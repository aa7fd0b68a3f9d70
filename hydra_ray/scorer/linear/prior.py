"""What training users teach about all users: the shared heads, the basis of deviations from them, and their prior.

Empirical Bayes. Around the shared head each user deviates by a Gaussian whose covariance is estimated by expectation
maximization (a step's covariance is the mean, over the users, of the posterior's covariance plus the outer product of
its code), held near a diagonal that maximizes the marginal likelihood, so that few users cannot make it collapse or
explode. The leading eigenvectors of that covariance are the basis, the eigenvalues the prior variances; one common
factor for them is chosen on held-out groups. Deviations are measured from heads that were fitted without the user, as
a new user's will be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from hydra_ray import storage
from hydra_ray.scorer.linear.groups import Bools, Floats, GroupTable, Ints, group_losses
from hydra_ray.scorer.linear.newton import Regression
from hydra_ray.scorer.linear.routed import RoutedHeads, fit_routed_heads, rescaled, routed_scores
from hydra_ray.scorer.linear.shared import SharedHead, Widths, fit_shared_heads, search
from hydra_ray.seeds import rng_of

START_VARIANCES = (1e-4, 1e-3, 0.01, 0.1, 1.0)
"""Candidates for the variance of the users' deviations before their directions are known."""
VARIANCE_FACTORS = (0.0, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Candidates for the factor by which the estimated variances are corrected on users left out: the Laplace approximation
makes them too small where users have few groups and differ much, and a basis learned from few users too large."""
MAX_COVARIANCE_STEPS = 100
COVARIANCE_TOLERANCE = 0.01
"""Relative change of every variance at which the covariance is found. A direction that few groups show grows slowly,
from the little that it was given at the start."""
PRIOR_USERS = 3.0
"""As many imagined users deviate by the start variances. The fewer, the sooner a direction is found that users share;
what few users only seem to share is left to `choose_factors`."""
MAX_SEARCH_USERS = 100
"""Users on whom start variances are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPrior:
    """Shared heads, basis and priors, in the units of the stored features."""

    base_fingerprint: str
    scales_D: Floats
    """How much each feature varies within a group."""
    query_head: SharedHead
    pseudo_head: SharedHead
    basis_DR: Floats
    """For the largest rank; smaller ranks use its first columns."""
    variances: Mapping[int, Floats]
    """Per rank, the prior variances of the code."""
    network_K: Floats
    """The shared two-layer network that paper heads start from; empty where none is fitted."""
    routed: RoutedHeads | None
    """The shared heads that the user's history mixes, from which own codes start; None where they help nobody."""

    def shared_scores(self, features_ND: Floats, is_pseudo_N: Bools, user_fold_N: Ints) -> Floats:
        """Each candidate's score by the shared head of its kind of query.

        Args:
            user_fold_N: fold of each candidate's user, if the user taught the head; -1 for new users.
        """
        pseudo_N = self.pseudo_head.scores(features_ND, user_fold_N)
        return np.where(is_pseudo_N, pseudo_N, self.query_head.scores(features_ND, user_fold_N))

    def routes(
        self, histories_GH: Floats, user_fold_G: Ints, features_ND: Floats, user_fold_N: Ints
    ) -> tuple[Floats, Floats]:
        """Mixture (G, E) of each group and what each routed head adds to each candidate's score (N, E); of no width
        where there are no routed heads.

        Args:
            histories_GH: the records that may be used for each group's query.
            user_fold_G: as in `shared_scores`, of each group.
            user_fold_N: as in `shared_scores`.
        """
        if self.routed is None or not len(histories_GH):
            return np.zeros((len(histories_GH), 0)), np.zeros((len(features_ND), 0))
        return self.routed.mixtures(histories_GH, user_fold_G), self.routed.added(features_ND, user_fold_N)

    def write(self, folder: str, fingerprint: str) -> None:
        """Store it at `folder`, the description last."""
        arrays = {"scales": self.scales_D, "basis": self.basis_DR, "network": self.network_K}
        for name, head in (("query", self.query_head), ("pseudo", self.pseudo_head)):
            arrays |= {f"{name}.weights": head.weights_D, f"{name}.left_out": head.left_out_KD}
        if self.routed is not None:
            arrays |= {f"routed.{name}": value for name, value in asdict(self.routed).items()}
        arrays |= {f"variances.{rank}": values for rank, values in self.variances.items()}
        storage.write_bytes(storage.join(folder, _ARRAYS), _to_safetensors(arrays))
        description = {
            "base_fingerprint": self.base_fingerprint,
            "fingerprint": fingerprint,
            "ranks": sorted(self.variances),
            "variances": {str(rank): np.round(values, 6).tolist() for rank, values in self.variances.items()},
        }
        storage.write_json(storage.join(folder, DESCRIPTION), description)


_ARRAYS = "population.safetensors"
DESCRIPTION = "population.json"


def read_prior(folder: str) -> HeadPrior:
    """The population stored at `folder`.

    Raises:
        StorageError: there is none.
    """
    from safetensors.numpy import load

    description = storage.read_json(storage.join(folder, DESCRIPTION))
    arrays = load(storage.read_bytes(storage.join(folder, _ARRAYS)))
    return HeadPrior(
        base_fingerprint=description["base_fingerprint"],
        scales_D=arrays["scales"],
        query_head=SharedHead(weights_D=arrays["query.weights"], left_out_KD=arrays["query.left_out"]),
        pseudo_head=SharedHead(weights_D=arrays["pseudo.weights"], left_out_KD=arrays["pseudo.left_out"]),
        basis_DR=arrays["basis"],
        variances={rank: arrays[f"variances.{rank}"] for rank in description["ranks"]},
        network_K=arrays["network"],
        routed=_routed_of(arrays),
    )


def _routed_of(arrays: Mapping[str, Floats]) -> RoutedHeads | None:
    own = {name.removeprefix("routed."): array for name, array in arrays.items() if name.startswith("routed.")}
    return RoutedHeads(**own) if own else None


def _to_safetensors(arrays: Mapping[str, Floats]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def feature_weights(head_prior: HeadPrior, handcrafted_names: Sequence[str]) -> list[tuple[str, float]]:
    """Each plain feature's weight in the shared head of queries, per standard deviation within a query.

    Args:
        handcrafted_names: of the plain features, which come last.
    """
    weights = head_prior.query_head.weights_D * head_prior.scales_D
    return list(zip(handcrafted_names, weights[len(weights) - len(handcrafted_names) :].tolist(), strict=True))


def within_group_scales(table: GroupTable) -> Floats:
    """Standard deviation of each feature around its group's mean; 1 where a feature never varies within a group."""
    if not table.num_groups:
        return np.ones(table.features_ND.shape[1])
    features = table.features_ND.astype(np.float64)
    lengths = np.diff(table.group_starts)[:, None]
    means = np.add.reduceat(features, table.group_starts[:-1], axis=0) / lengths
    centred = features - means[table.group_of_candidate()]
    variances = (centred**2).mean(axis=0)
    return np.sqrt(np.where(variances > 1e-10, variances, 1.0))


def estimate_deviations(table: GroupTable, offsets_N: Floats, start_D: Floats) -> tuple[Floats, Floats]:
    """Directions in which users deviate from what their codes start from, as columns, and their variances, the largest
    first.

    The largest weight of each direction is positive: eigenvectors have no sign of their own, and codes must agree
    between runs that taught the same.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        offsets_N: what codes start from, held out.
        start_D: variances of the deviations before their directions are known (see `start_variances`).
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
        # The mean of an inverse Wishart posterior, whose prior the imagined users are.
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
    """For each rank the factor of the prior variances with the lowest loss on held-out groups of users who did not
    teach the basis.

    The judges in each half of the users judge what the other half teaches: a basis fits the users it was learned from
    far too well. 0, which leaves everybody where codes start, where nothing helps, or nobody is left to judge.

    Args:
        is_judge_U: the users whom the base was not trained on.
    """
    losses = {rank: dict.fromkeys(VARIANCE_FACTORS, 0.0) for rank in ranks}
    half_G, may_judge_G = user_half_U[table.user_of_group()], is_validation_U[table.user_of_group()]
    for half in np.unique(half_G[may_judge_G]):
        teaches_G, judges_G = half_G != half, (half_G == half) & may_judge_G
        taught, judged = table.select(teaches_G).without_empty_users(), table.select(judges_G)
        if not taught.num_groups:
            return dict.fromkeys(ranks, 0.0)
        teaches_N, judges_N = (is_kept_G[table.group_of_candidate()] for is_kept_G in (teaches_G, judges_G))
        directions, values = estimate_deviations(taught, offsets_N[teaches_N], start_D)
        for rank in ranks:
            inputs_NR = judged.features_ND @ directions[:, :rank]
            regression = Regression(judged, inputs_NR, offsets_N[judges_N])
            for factor in VARIANCE_FACTORS:
                scores_N = held_out_scores(regression, factor * values[:rank], fold_G[judges_G])
                losses[rank][factor] += float(group_losses(judged, scores_N).sum())
    return {rank: min(own, key=own.__getitem__) for rank, own in losses.items()}


def held_out_scores(regression: Regression, variances_R: Floats, fold_G: Ints) -> Floats:
    """Each group's scores by its user's code, fitted without the fold that the group is in."""
    table = regression.table
    user_N, fold_N = table.user_of_candidate(), fold_G[table.group_of_candidate()]
    scores = regression.offsets_N.astype(np.float64)
    for fold in np.unique(fold_G):
        codes_UR = regression.codes(variances_R, (fold_G != fold).astype(float))
        rows = fold_N == fold
        scores[rows] += (regression.inputs_NR[rows] * codes_UR[user_N[rows]]).sum(axis=1)
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGroups:
    """What training users teach all users from."""

    table: GroupTable
    """Every group teaches."""
    is_pseudo_G: Bools
    fold_G: Ints
    """Each group's fold among its user's."""
    histories_GH: Floats
    """The records that may be used for each group's query; of no width where they are not known."""
    user_fold_U: Ints
    is_validation_U: Bools
    """The users whom the base was not trained on."""

    def without_empty_users(self) -> "TrainingGroups":
        """The same groups, and only the users who have any."""
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
    """Everything that training users teach about all users, but the networks.

    Args:
        ranks: widths of codes to estimate priors for; none where no low-rank head is fitted.

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
        # Where the base has seen nobody, a fold of users judges.
        judges_U = user_fold_U == 0 if is_validation_U.all() else is_validation_U
        routed = fit_routed_heads(scaled, offsets_N, groups.histories_GH, judges_U, user_fold_U, seed)
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
        SharedHead(weights_D=head.weights_D / scales, left_out_KD=head.left_out_KD / scales) for head in heads
    )
    return HeadPrior(
        base_fingerprint=base_fingerprint,
        scales_D=scales,
        query_head=query_head,
        pseudo_head=pseudo_head,
        basis_DR=basis / scales[:, None],
        variances=variances,
        network_K=np.zeros(0),
        routed=routed,
    )


def start_variances(table: GroupTable, offsets_N: Floats, num_learned: int, seed: int) -> Floats:
    """One variance for the base's features and one for the plain ones, by marginal likelihood."""
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
    """The groups of at most MAX_SEARCH_USERS users."""
    chosen = rng_of(seed, "search").permutation(table.num_users)[:MAX_SEARCH_USERS]
    return np.isin(table.user_of_group(), chosen)
