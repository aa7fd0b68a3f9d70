"""Other ways to choose among the drafts of a finished run in a text task, on the same features: what more could be had?

    python benchmarks/choosers.py FOLDER_OF_A_CROSS_FITTED_RUN

Each chooser learns the quality of drafts (less the mean of their query's) from the groups of the users of all folds but
one, and chooses among the drafts of that fold's users, for their queries and pseudo-queries. Ridge on the handcrafted
features stands for the linear head. Differences are means by user, with bootstrap intervals. Nothing is asked of a
generator, and nothing of the run is changed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from hydra_ray.api import load_run
from hydra_ray.evaluate.intervals import mean_interval
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import UserExamples
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.scorer import EXAMPLES
from hydra_ray.stages.tables import read_rows, read_users

_MAX_TOP = 0.05
"""How much worse than the best a draft may be and still count a third, where only the best are learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """Candidates of one query. Key: (user_id, query_id)."""

    user_id: str
    fold: int
    features: Floats
    qualities: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """A model of the quality of drafts, and what it is fitted to."""

    model: Callable[[], Any]
    features: Callable[[Drafts], Floats] = lambda drafts: drafts.features
    target: Callable[[Drafts], Floats] = lambda drafts: drafts.qualities - drafts.qualities.mean()


def ranks(values: Floats) -> Floats:
    """Return ranks from 0 up to below 1, along the first axis."""
    return values.argsort(axis=0).argsort(axis=0) / len(values)


CHOOSERS: Mapping[str, Chooser] = {
    "ridge": Chooser(model=lambda: Ridge(alpha=100)),
    "ridge, strongly regularized": Chooser(model=lambda: Ridge(alpha=3000)),
    "ridge, by rank": Chooser(model=lambda: Ridge(alpha=100), target=lambda drafts: ranks(drafts.qualities) - 0.5),
    "ridge, by the best drafts": Chooser(
        model=lambda: Ridge(alpha=100),
        target=lambda drafts: np.exp((drafts.qualities - drafts.qualities.max()) / _MAX_TOP),
    ),
    "ridge, ranks of features too": Chooser(
        model=lambda: Ridge(alpha=100),
        features=lambda drafts: np.hstack([drafts.features, ranks(drafts.features)]),
    ),
    "boosted trees, 4 leaves": Chooser(
        model=lambda: HistGradientBoostingRegressor(
            learning_rate=0.05, max_iter=100, max_leaf_nodes=4, min_samples_leaf=50, random_state=0
        )
    ),
    "boosted trees, 8 leaves": Chooser(
        model=lambda: HistGradientBoostingRegressor(
            learning_rate=0.05, max_iter=200, max_leaf_nodes=8, min_samples_leaf=50, random_state=0
        )
    ),
    "extremely randomized trees": Chooser(
        model=lambda: ExtraTreesRegressor(200, min_samples_leaf=20, max_features=0.4, random_state=0)
    ),
}


def main() -> int:
    """Print the quality of what each chooser chooses, and its difference from the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a finished run, <storage.root>/runs/<run>, with users.num_folds")
    plan = load_run(parser.parse_args().run).plan
    if plan.task.is_closed or plan.config.users.num_folds < 2:
        parser.error("expected a cross-fitted run of a text task")
    groups = list(drafts_of(plan))
    by_user = np.unique([each.user_id for each in groups], return_inverse=True)[1]
    counts_U = np.bincount(by_user).astype(float)
    num_drafts = np.mean([len(each.qualities) for each in groups])
    print(f"{len(groups)} queries and pseudo-queries of {len(counts_U)} users, {num_drafts:.0f} drafts each")

    def line(name: str, qualities: Floats, reference: Floats | None) -> str:
        text = f"{name:32} {qualities.mean():.4f}"
        if reference is None:
            return text
        difference_U = np.bincount(by_user, qualities - reference) / counts_U
        found = mean_interval(np.ones_like(counts_U), difference_U, 2000, 0.95)
        return f"{text}  {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"

    print(line("any draft", np.array([each.qualities.mean() for each in groups]), None))
    print(line("the best draft", np.array([each.qualities.max() for each in groups]), None))
    first: Floats | None = None
    for name, chooser in CHOOSERS.items():
        chosen = chosen_qualities(groups, chooser)
        print(line(name, chosen, first), flush=True)
        first = chosen if first is None else first
    return 0


def drafts_of(plan: Plan) -> Iterator[Drafts]:
    """Yield the candidates of every query and pseudo-query of a run, with their qualities."""
    for bucket in plan.users.buckets:
        examples = read_rows(plan.stage("adapter.examples"), EXAMPLES, bucket, UserExamples)
        for user in read_users(plan, bucket):
            targets = {query.query_id: query.target for query in user.queries}
            for group in examples[user.user_id].groups if user.user_id in examples else ():
                if group.variant != "personal":
                    continue
                known = [each.quality for each in group.candidates]
                target = targets.get(group.query_id)
                if None in known and target is not None:
                    known = [quality(plan.task, each.candidate_id, target) for each in group.candidates]
                if None not in known and user.fold is not None:
                    yield Drafts(
                        user_id=user.user_id,
                        fold=user.fold,
                        features=np.array([each.plain for each in group.candidates]),
                        qualities=np.array(known, dtype=float),
                    )


def chosen_qualities(groups: list[Drafts], chooser: Chooser) -> Floats:
    """Return the quality of the draft that is chosen for each query, by a model fitted without the user's fold."""
    chosen = np.zeros(len(groups))
    for fold in {each.fold for each in groups}:
        others = [each for each in groups if each.fold != fold]
        weights = np.concatenate([np.full(len(each.qualities), 1 / len(each.qualities)) for each in others])
        model = chooser.model()
        model.fit(
            np.vstack([chooser.features(each) for each in others]),
            np.concatenate([chooser.target(each) for each in others]),
            sample_weight=weights / weights.mean(),
        )
        for place, each in enumerate(groups):
            if each.fold == fold:
                chosen[place] = each.qualities[model.predict(chooser.features(each)).argmax()]
    return chosen


if __name__ == "__main__":
    sys.exit(main())
