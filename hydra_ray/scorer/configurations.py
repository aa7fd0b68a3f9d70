"""The kinds of heads, one entry each: how a user's code is fitted, and what it adds to a candidate's score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hydra_ray.config import HeadsConfig
from hydra_ray.scorer.heads import Floats, GroupTable, Ints, fit_codes
from hydra_ray.scorer.population import Population


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One kind of head with its settings. Key: name."""

    name: str
    kind: str
    rank: int
    """Width of a low-rank code; 0 for other kinds."""
    settings: HeadsConfig

    def fit(self, table: GroupTable, population: Population, weights_G: Floats) -> Floats:
        """Codes (U, K) of all users.

        Args:
            table: every group teaches.
            weights_G: 0 leaves a group out.
        """
        return _KINDS[self.kind].fit(self, table, population, weights_G)

    def score(self, features_ND: Floats, user_N: Ints, codes_UK: Floats, population: Population) -> Floats:
        """Each candidate's score by the code of its user."""
        return _KINDS[self.kind].score(self, features_ND, user_N, codes_UK, population)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    fit: Callable[[Configuration, GroupTable, Population, Floats], Floats]
    score: Callable[[Configuration, Floats, Ints, Floats, Population], Floats]


def configurations(config: HeadsConfig) -> list[Configuration]:
    """The head configurations of a run, the shared head first."""
    found = [Configuration(name="shared", kind="shared", rank=0, settings=config)]
    if "lowrank" in config.kinds:
        found += [
            Configuration(name=f"lowrank-{rank}", kind="lowrank", rank=rank, settings=config)
            for rank in sorted(set(config.ranks))
        ]
    if "paper" in config.kinds:
        found.append(Configuration(name="paper", kind="paper", rank=0, settings=config))
    return found


def _fit_shared(_: Configuration, table: GroupTable, __: Population, ___: Floats) -> Floats:
    return np.zeros((table.num_users, 0))


def _score_shared(_: Configuration, features_ND: Floats, __: Ints, ___: Floats, population: Population) -> Floats:
    return features_ND @ population.weights_D


def _fit_lowrank(configuration: Configuration, table: GroupTable, population: Population, weights_G: Floats) -> Floats:
    basis_DR = _basis(configuration, population)
    variances_R = population.variances[basis_DR.shape[1]]
    offsets_N = table.features_ND @ population.weights_D
    return fit_codes(table, table.features_ND @ basis_DR, offsets_N, variances_R, weights_G).codes_UR


def _score_lowrank(
    configuration: Configuration, features_ND: Floats, user_N: Ints, codes_UK: Floats, population: Population
) -> Floats:
    inputs_NR = features_ND @ _basis(configuration, population)
    return features_ND @ population.weights_D + (inputs_NR * codes_UK[user_N]).sum(axis=1)


def _basis(configuration: Configuration, population: Population) -> Floats:
    """The rank's columns of the basis; a rank above the number of features means all directions."""
    return population.basis_DR[:, : configuration.rank]


def _fit_paper(configuration: Configuration, table: GroupTable, population: Population, weights_G: Floats) -> Floats:
    from hydra_ray.scorer.paper import train_networks

    settings = configuration.settings
    return train_networks(
        table.scaled(population.scales_D),
        population.network_K,
        weights_G,
        settings.paper_width,
        settings.paper_epochs,
        settings.paper_learning_rate,
    )


def _score_paper(
    configuration: Configuration, features_ND: Floats, user_N: Ints, codes_UK: Floats, population: Population
) -> Floats:
    from hydra_ray.scorer.paper import network_scores

    return network_scores(features_ND / population.scales_D, user_N, codes_UK, configuration.settings.paper_width)


_KINDS: Mapping[str, _Kind] = {
    "shared": _Kind(fit=_fit_shared, score=_score_shared),
    "lowrank": _Kind(fit=_fit_lowrank, score=_score_lowrank),
    "paper": _Kind(fit=_fit_paper, score=_score_paper),
}
