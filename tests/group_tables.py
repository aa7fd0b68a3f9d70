"""Tables of groups for the tests of the scorer."""

import numpy as np

from hydra_ray.scorer.linear.groups import GroupTable, starts_of


def random_table(rng, group_counts, max_candidates=5, num_features=3, *, is_soft=False):
    """Users with so many groups of random candidates."""
    lengths = rng.integers(2, max_candidates + 1, sum(group_counts))
    targets = [
        rng.dirichlet(np.ones(length)) if is_soft else np.eye(length)[rng.integers(length)] for length in lengths
    ]
    targets_N = np.concatenate([np.zeros(0), *targets])
    return GroupTable(
        features_ND=rng.normal(size=(lengths.sum(), num_features)),
        targets_N=targets_N,
        qualities_N=targets_N,
        group_starts=starts_of(lengths),
        user_starts=starts_of(group_counts),
    )


def objective(code, table, user, offsets, variances, weights, loss="softmax", mean=0.0):
    """The penalized loss of one user, written as a plain loop."""
    total = 0.5 * ((code - mean) ** 2 / variances).sum()
    for group in range(table.user_starts[user], table.user_starts[user + 1]):
        rows = slice(table.group_starts[group], table.group_starts[group + 1])
        scores = offsets[rows] + table.features_ND[rows] @ code
        total += weights[group] * cost_of_group(scores, table.targets_N[rows], loss)
    return total


def cost_of_group(scores, targets, loss):
    """What the scores of one group cost."""
    if loss == "softmax":
        log_probabilities = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        return -(targets * log_probabilities).sum()
    if loss == "logistic":
        return (np.logaddexp(0, scores) - targets * scores).sum()
    return 0.5 * ((scores - targets) ** 2).sum()


def choosing_users(weights_UD, *, num_groups=8, num_candidates=4, seed=0):
    """Users who choose by softmax of their own weights, the features being standard normal."""
    rng = np.random.default_rng(seed)
    num_users, width = weights_UD.shape
    features = rng.normal(size=(num_users, num_groups, num_candidates, width))
    scores = np.einsum("ugcd,ud->ugc", features, weights_UD)
    choices = (scores + rng.gumbel(size=scores.shape)).argmax(axis=2)
    targets = np.eye(num_candidates)[choices].ravel()
    return GroupTable(
        features_ND=features.reshape(-1, width),
        targets_N=targets,
        qualities_N=targets,
        group_starts=np.arange(num_users * num_groups + 1) * num_candidates,
        user_starts=np.arange(num_users + 1) * num_groups,
    )
