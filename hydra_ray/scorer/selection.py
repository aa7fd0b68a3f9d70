"""Which head a user gets, and what it says about every candidate: the tables "heads" and "scores"."""

from collections.abc import Mapping, Sequence

import numpy as np

from hydra_ray.records import HEADS, CandidateScore, ScoredGroup, ScoredUser
from hydra_ray.scorer.configurations import Configuration
from hydra_ray.scorer.features import FeaturePart
from hydra_ray.scorer.heads import Bools, Floats, Ints
from hydra_ray.scorer.population import Population
from hydra_ray.scorer.store import UserHead
from hydra_ray.scorer.trials import COHORTS, TrialPart, shared_scores


def cohort_losses(counters: Sequence[Mapping[str, float]]) -> Floats:
    """Mean held-out loss (configurations, cohorts).

    Args:
        counters: of each configuration's parts, added up.
    """
    return np.array(
        [[each[f"{cohort}.loss"] / max(each[f"{cohort}.groups"], 1) for cohort in COHORTS] for each in counters]
    )


def choose_configurations(
    loss_sums_KU: Floats, num_groups_U: Ints, is_new_U: Bools, cohorts_K2: Floats, num_prior_groups: int
) -> Ints:
    """Index of each user's configuration: the lowest held-out loss, shrunk to the cohort's mean; the first of equals.

    Args:
        num_prior_groups: how many groups of the user's own weigh as much as the cohort.
    """
    means_KU = cohorts_K2[:, is_new_U.astype(int)]
    return np.argmin((loss_sums_KU + num_prior_groups * means_KU) / (num_groups_U + num_prior_groups), axis=0)


def donors(is_new_U: Bools) -> Ints:
    """Whose head is put in the place of each user's own: the next of the same cohort in the bucket, or else the next
    of all; -1 where there is nobody else."""
    num_users = len(is_new_U)
    found = (np.arange(num_users) + 1) % num_users if num_users > 1 else np.full(num_users, -1)
    for is_new in (False, True):
        users = np.flatnonzero(is_new_U == is_new)
        if len(users) > 1:
            found[users] = np.roll(users, -1)
    return found


def shuffled_scores(
    part: FeaturePart,
    chosen_U: Ints,
    trials: Sequence[TrialPart],
    configurations: Sequence[Configuration],
    population: Population,
) -> Floats:
    """The control: every candidate's score by the head of another user; by the shared head where there is nobody."""
    donor_U, user_N = donors(part.is_new_U), part.table.user_of_candidate()
    offsets_N = shared_scores(part, population)
    scores = offsets_N.copy()
    for place, (trial, configuration) in enumerate(zip(trials, configurations, strict=True)):
        is_lent_U = (donor_U >= 0) & (chosen_U[donor_U] == place)
        rows = is_lent_U[user_N]
        if not rows.any():
            continue
        features, users = part.table.features_ND[rows], user_N[rows]
        codes_UK = trial.codes_UK[donor_U]
        scores[rows] = configuration.score(features, offsets_N[rows], users, codes_UK, population)
    return scores


def routed_scores(part: FeaturePart, population: Population) -> Floats:
    """Every candidate's score by the heads that the user's history mixes; the shared head's where there are none."""
    offsets_N = shared_scores(part, population)
    if population.routed is None or not part.user_ids:
        return offsets_N
    return population.routed.scores(
        part.table.features_ND, offsets_N, part.histories_UH, part.table.user_of_candidate()
    )


def user_heads(
    part: FeaturePart, chosen_U: Ints, trials: Sequence[TrialPart], configurations: Sequence[Configuration]
) -> list[UserHead]:
    """Rows of the heads table."""
    return [
        UserHead(
            user_id=user_id,
            is_new=bool(part.is_new_U[user]),
            configuration=configurations[chosen_U[user]].name,
            code=tuple(trials[chosen_U[user]].codes_UK[user].tolist()),
            num_groups=int(trials[0].num_groups_U[user]),
            held_out_losses=tuple(
                float(trial.loss_sums_U[user] / trial.num_groups_U[user])
                for trial in trials
                if trial.num_groups_U[user]
            ),
        )
        for user, user_id in enumerate(part.user_ids)
    ]


def scored_users(part: FeaturePart, names: Sequence[str], scores: Mapping[str, Floats]) -> list[ScoredUser]:
    """Rows of the scores table.

    Args:
        names: of each user's head configuration.
        scores: every candidate's score by each of HEADS.
    """
    candidates = [
        CandidateScore(candidate_id=candidate_id, **dict(zip(HEADS, values, strict=True)))
        for candidate_id, *values in zip(part.candidate_ids, *(scores[head].tolist() for head in HEADS), strict=True)
    ]
    starts = part.table.group_starts
    groups = [
        ScoredGroup(
            group_id=part.group_ids[group],
            query_id=part.query_ids[group],
            variant=part.variants[group],
            is_pseudo=bool(part.is_pseudo_G[group]),
            candidates=tuple(candidates[starts[group] : starts[group + 1]]),
        )
        for group in range(part.table.num_groups)
    ]
    starts = part.table.user_starts
    return [
        ScoredUser(
            user_id=user_id,
            is_new=bool(part.is_new_U[user]),
            head=names[user],
            groups=tuple(groups[starts[user] : starts[user + 1]]),
        )
        for user, user_id in enumerate(part.user_ids)
    ]
