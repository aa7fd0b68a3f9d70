"""What training users teach about all users: the shared head, the basis of deviations from it, and their prior.

Empirical Bayes in three steps. The shared head is a ridge regression whose strength is chosen on users left out. Around
it each user deviates by a Gaussian whose covariance is estimated by expectation maximization, held near a diagonal that
maximizes the marginal likelihood, so that few users cannot make it collapse or explode. The leading eigenvectors of
that covariance are the basis, the eigenvalues the prior variances; one common factor for them is chosen on held-out
groups.
Deviations are measured from heads that were fitted without the user, as a new user's will be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray import storage
from hydra_ray.errors import TrainingError
from hydra_ray.scorer.heads import Bools, Floats, GroupTable, Ints, fit_codes, group_losses
from hydra_ray.seeds import rng_of

RIDGE_VARIANCES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Candidates for the prior variance of the shared head's weights, of features that vary by 1 within a group."""
START_VARIANCES = (1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Candidates for the variance of the users' deviations before their directions are known."""
VARIANCE_FACTORS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0)
"""Candidates for the factor by which the estimated variances are corrected on held-out groups: the Laplace
approximation makes them too small where users have few groups and differ much."""
COVARIANCE_STEPS = 8
MAX_SEARCH_USERS = 500
"""Users on whom candidate values of the priors are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHead:
    """The head that all users start from."""

    weights_D: Floats
    held_out_N: Floats
    """Scores of the candidates it was fitted on, each by a head that was fitted without the candidate's user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Shared head, basis and priors, in the units of the stored features."""

    base_fingerprint: str
    scales_D: Floats
    """How much each feature varies within a group."""
    weights_D: Floats
    basis_DR: Floats
    """For the largest rank; smaller ranks use its first columns."""
    variances: Mapping[int, Floats]
    """Per rank, the prior variances of the code."""
    network_K: Floats
    """The shared two-layer network that paper heads start from; empty where none is fitted."""

    def write(self, folder: str, fingerprint: str) -> None:
        """Store it at `folder`, the description last."""
        arrays = {"scales": self.scales_D, "weights": self.weights_D, "basis": self.basis_DR, "network": self.network_K}
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


def read_population(folder: str) -> Population:
    """The population stored at `folder`.

    Raises:
        StorageError: there is none.
    """
    from safetensors.numpy import load

    description = storage.read_json(storage.join(folder, DESCRIPTION))
    arrays = load(storage.read_bytes(storage.join(folder, _ARRAYS)))
    return Population(
        base_fingerprint=description["base_fingerprint"],
        scales_D=arrays["scales"],
        weights_D=arrays["weights"],
        basis_DR=arrays["basis"],
        variances={rank: arrays[f"variances.{rank}"] for rank in description["ranks"]},
        network_K=arrays["network"],
    )


def _to_safetensors(arrays: Mapping[str, Floats]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


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


def fit_shared_head(table: GroupTable, num_learned: int, is_judge_U: Bools, num_folds: int, seed: int) -> SharedHead:
    """Ridge regression on all users' groups, its strength chosen on users left out.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        num_learned: how many of the first features come from the base; they have a ridge of their own.
        is_judge_U: the users whose losses choose the ridge: those whom the base was not trained on.
    """
    if not table.num_groups:
        raise TrainingError(
            "no training user has a group of candidates of different, known quality: there is nothing to fit the "
            "shared head on. Check the share of failed answers and the qualities of the stage before."
        )
    judges_G = is_judge_U[table.user_of_group()]
    is_kept_G = _sample_groups(table, seed)
    if not (judges_G & is_kept_G).any():
        judges_G = np.ones(table.num_groups, bool)
    sample = table.select(is_kept_G)

    def loss(variances: tuple[float, float]) -> float:
        scores_N = _left_out_scores(sample, variances, num_learned, num_folds, seed)
        return float(group_losses(sample, scores_N)[judges_G[is_kept_G]].mean())

    has_plain = table.features_ND.shape[1] > num_learned
    best = _search_pair(loss, (0.1, 0.1), RIDGE_VARIANCES, has_first=num_learned > 0, has_second=has_plain)
    return SharedHead(
        weights_D=_pooled_weights(table, best, num_learned, np.ones(table.num_groups)),
        held_out_N=_left_out_scores(table, best, num_learned, num_folds, seed),
    )


def estimate_deviations(table: GroupTable, offsets_N: Floats, num_learned: int, seed: int) -> tuple[Floats, Floats]:
    """Directions in which users deviate from the shared head, as columns, and their variances, the largest first.

    Args:
        table: every group teaches; features vary by about 1 within a group.
        offsets_N: the shared head's scores, held out.
    """
    num_features = table.features_ND.shape[1]
    start_D = _start_variances(table, offsets_N, num_learned, seed)
    covariance = np.diag(start_D)
    for _ in range(COVARIANCE_STEPS):
        values, directions = np.linalg.eigh(covariance)
        fit = fit_codes(table, table.features_ND @ directions, offsets_N, np.maximum(values, 0))
        moments = fit.codes_UR.T @ fit.codes_UR + fit.covariances_URR.sum(axis=0)
        observed = directions @ moments @ directions.T
        # As many imagined users who deviate by the start variances as there are features: an inverse Wishart prior.
        covariance = (observed + num_features * np.diag(start_D)) / (table.num_users + num_features)
    values, directions = np.linalg.eigh(covariance)
    return directions[:, ::-1], np.maximum(values[::-1], 0)


def choose_factor(table: GroupTable, inputs_NR: Floats, offsets_N: Floats, variances_R: Floats, fold_G: Ints) -> float:
    """The factor of the prior variances with the lowest loss on held-out groups of the same users."""
    losses = {
        factor: float(
            group_losses(table, held_out_scores(table, inputs_NR, offsets_N, factor * variances_R, fold_G)).mean()
        )
        for factor in VARIANCE_FACTORS
    }
    return min(losses, key=lambda factor: losses[factor])


def held_out_scores(
    table: GroupTable, inputs_NR: Floats, offsets_N: Floats, variances_R: Floats, fold_G: Ints
) -> Floats:
    """Each group's scores by its user's code, fitted without the fold that the group is in."""
    user_N, fold_N = table.user_of_candidate(), fold_G[table.group_of_candidate()]
    scores = offsets_N.astype(np.float64)
    for fold in np.unique(fold_G):
        fit = fit_codes(table, inputs_NR, offsets_N, variances_R, (fold_G != fold).astype(float))
        rows = fold_N == fold
        scores[rows] += (inputs_NR[rows] * fit.codes_UR[user_N[rows]]).sum(axis=1)
    return scores


def fit_population(
    table: GroupTable,
    *,
    num_learned: int,
    is_judge_U: Bools,
    fold_G: Ints,
    ranks: Sequence[int],
    num_folds: int,
    seed: int,
    base_fingerprint: str,
) -> Population:
    """Everything that training users teach about all users.

    Args:
        table: training users' groups; every one teaches.
        fold_G: each group's fold among its user's.
        ranks: widths of codes to estimate priors for; none where no low-rank head is fitted.
    """
    scales = within_group_scales(table)
    is_judge_U = is_judge_U[np.diff(table.user_starts) > 0]
    scaled = table.without_empty_users().scaled(scales)
    shared = fit_shared_head(scaled, num_learned, is_judge_U, num_folds, seed)
    basis = np.zeros((len(scales), 0))
    variances: dict[int, Floats] = {}
    if ranks:
        directions, values = estimate_deviations(scaled, shared.held_out_N, num_learned, seed)
        basis = directions[:, : max(ranks)]
        for rank in {min(rank, len(scales)) for rank in ranks}:
            inputs = scaled.features_ND @ basis[:, :rank]
            factor = choose_factor(scaled, inputs, shared.held_out_N, values[:rank], fold_G)
            variances[rank] = factor * values[:rank]
    return Population(
        base_fingerprint=base_fingerprint,
        scales_D=scales,
        weights_D=shared.weights_D / scales,
        basis_DR=basis / scales[:, None],
        variances=variances,
        network_K=np.zeros(0),
    )


def _start_variances(table: GroupTable, offsets_N: Floats, num_learned: int, seed: int) -> Floats:
    """One variance for the base's features and one for the plain ones, by marginal likelihood."""
    is_kept_G = _sample_groups(table, seed)
    offsets_N = offsets_N[is_kept_G[table.group_of_candidate()]]
    table = table.select(is_kept_G)
    num_plain = table.features_ND.shape[1] - num_learned

    def spread(pair: tuple[float, float]) -> Floats:
        return np.repeat(pair, (num_learned, num_plain))

    def cost(pair: tuple[float, float]) -> float:
        return -float(fit_codes(table, table.features_ND, offsets_N, spread(pair)).evidences_U.sum())

    return spread(
        _search_pair(cost, (1e-3, 0.03), START_VARIANCES, has_first=num_learned > 0, has_second=num_plain > 0)
    )


def _sample_groups(table: GroupTable, seed: int) -> Bools:
    """The groups of at most MAX_SEARCH_USERS users."""
    chosen = rng_of(seed, "search").permutation(table.num_users)[:MAX_SEARCH_USERS]
    return np.isin(table.user_of_group(), chosen)


def _left_out_scores(
    table: GroupTable, variances: tuple[float, float], num_learned: int, num_folds: int, seed: int
) -> Floats:
    """Each candidate's score by a shared head that was fitted without the candidate's user."""
    user_G = table.user_of_group()
    num_folds = max(2, min(num_folds, len(np.unique(user_G))))
    fold_G = _spread_folds(user_G, num_folds, seed)
    scores = np.zeros(len(table.features_ND))
    for fold in range(num_folds):
        weights = _pooled_weights(table, variances, num_learned, (fold_G != fold).astype(float))
        rows = (fold_G == fold)[table.group_of_candidate()]
        scores[rows] = table.features_ND[rows] @ weights
    return scores


def _pooled_weights(table: GroupTable, variances: tuple[float, float], num_learned: int, weights_G: Floats) -> Floats:
    """Ridge weights of one head for all users together."""
    num_plain = table.features_ND.shape[1] - num_learned
    variances_D = np.repeat(variances, (num_learned, num_plain))
    zeros_N = np.zeros(len(table.features_ND))
    return fit_codes(table.pooled(), table.features_ND, zeros_N, variances_D, weights_G).codes_UR[0]


def _spread_folds(user_G: Ints, num_folds: int, seed: int) -> Ints:
    """All groups of a user in one fold, the users spread evenly."""
    users = np.unique(user_G)
    folds = rng_of(seed, "folds of users").permutation(len(users)) % num_folds
    return folds[np.searchsorted(users, user_G)]


def _search_pair(
    cost: Callable[[tuple[float, float]], float],
    start: tuple[float, float],
    values: Sequence[float],
    *,
    has_first: bool,
    has_second: bool,
) -> tuple[float, float]:
    """The pair of `values` with a low cost, found by changing one at a time; the second matters more."""
    known: dict[tuple[float, float], float] = {}

    def cached(pair: tuple[float, float]) -> float:
        if pair not in known:
            known[pair] = cost(pair)
        return known[pair]

    best = start
    for position in (1, 0, 1, 0):
        if (has_first, has_second)[position]:
            pairs = [(value, best[1]) if position == 0 else (best[0], value) for value in values]
            best = min(pairs, key=cached)
    return best
