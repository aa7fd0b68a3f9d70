"""The kinds of heads, one entry each: how a user's code is fitted, and what it adds to a candidate's score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hydra_ray.config import HeadsConfig
from hydra_ray.scorer.heads import Floats, GroupTable, Ints
from hydra_ray.scorer.newton import Regression
from hydra_ray.scorer.population import Population


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One kind of head with its settings. Key: name."""

    name: str
    kind: str
    rank: int
    """Width of a low-rank code; 0 for other kinds."""
    settings: HeadsConfig

    def fit(self, table: GroupTable, offsets_N: Floats, population: Population, weights_G: Floats) -> Floats:
        """Codes (U, K) of all users.

        Args:
            table: every group teaches.
            offsets_N: the shared head's scores.
            weights_G: 0 leaves a group out.
        """
        return _KINDS[self.kind].fit(self, table, offsets_N, population, weights_G)

    def score(
        self, features_ND: Floats, offsets_N: Floats, user_N: Ints, codes_UK: Floats, population: Population
    ) -> Floats:
        """Each candidate's score by the code of its user."""
        return _KINDS[self.kind].score(self, features_ND, offsets_N, user_N, codes_UK, population)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    fit: Callable[[Configuration, GroupTable, Floats, Population, Floats], Floats]
    score: Callable[[Configuration, Floats, Floats, Ints, Floats, Population], Floats]


def configurations(config: HeadsConfig) -> list[Configuration]:
    """The head configurations that a user may get, the shared head first if it is one of them."""
    found: list[Configuration] = []
    for kind in ("shared", "lowrank", "paper"):
        ranks = sorted(set(config.ranks)) if kind == "lowrank" else [0]
        if kind in config.kinds:
            found += [
                Configuration(name=f"{kind}-{rank}" if rank else kind, kind=kind, rank=rank, settings=config)
                for rank in ranks
            ]
    return found


def _fit_shared(_: Configuration, table: GroupTable, __: Floats, ___: Population, ____: Floats) -> Floats:
    return np.zeros((table.num_users, 0))


def _score_shared(
    _: Configuration, __: Floats, offsets_N: Floats, ___: Ints, ____: Floats, _____: Population
) -> Floats:
    return offsets_N


def _fit_lowrank(
    configuration: Configuration, table: GroupTable, offsets_N: Floats, population: Population, weights_G: Floats
) -> Floats:
    basis_DR = _basis(configuration, population)
    variances_R = population.variances[basis_DR.shape[1]]
    return Regression(table, table.features_ND @ basis_DR, offsets_N).codes(variances_R, weights_G)


def _score_lowrank(
    configuration: Configuration,
    features_ND: Floats,
    offsets_N: Floats,
    user_N: Ints,
    codes_UK: Floats,
    population: Population,
) -> Floats:
    inputs_NR = features_ND @ _basis(configuration, population)
    return offsets_N + (inputs_NR * codes_UK[user_N]).sum(axis=1)


def _basis(configuration: Configuration, population: Population) -> Floats:
    """The rank's columns of the basis; a rank above the number of features means all directions."""
    return population.basis_DR[:, : configuration.rank]


def _fit_paper(
    configuration: Configuration, table: GroupTable, _: Floats, population: Population, weights_G: Floats
) -> Floats:
    from hydra_ray.scorer.paper import train_networks

    settings = configuration.settings
    scaled = table.scaled(population.scales_D)
    return train_networks(scaled, population.network_K, weights_G, settings, settings.paper_epochs)


def _score_paper(
    configuration: Configuration,
    features_ND: Floats,
    _: Floats,
    user_N: Ints,
    codes_UK: Floats,
    population: Population,
) -> Floats:
    from hydra_ray.scorer.paper import network_scores

    return network_scores(features_ND / population.scales_D, user_N, codes_UK, configuration.settings.paper_width)


_KINDS: Mapping[str, _Kind] = {
    "shared": _Kind(fit=_fit_shared, score=_score_shared),
    "lowrank": _Kind(fit=_fit_lowrank, score=_score_lowrank),
    "paper": _Kind(fit=_fit_paper, score=_score_paper),
}
