"""Summary of an update of a finished run: users, records, heads, requests and time."""

from typing import Any

from hydra_ray.lamp.users import COUNTERS_OF_FEEDBACK, COUNTERS_OF_UPDATES
from hydra_ray.scorer.heads.trials import COHORTS
from hydra_ray.stages.plan import Plan

_COHORT = f"{COHORTS[True]}."
"""Prefix of the head counters that count new users, by kind of head."""


def update_summary(plan: Plan) -> dict[str, Any]:
    """Return the number of active users, the kinds of their heads, the requests made and the time taken.

    Returns:
        run, taught_by, num_users, num_queries, num_rejected; returning_users, added_records and changed_records, unless
        an earlier version added the users; of an update by feedback `feedback`, judged_answers and preferred_answers
        (see `hydra_ray.lamp.users`); heads: by scorer, how many users got which head kind; requests: of the generator,
        and asked_now: those that had never been answered before; seconds.
    """
    assert plan.parent is not None
    inherited = {stage.folder for stage in plan.parent.stages.values()}
    manifests = {stage.name: stage.manifest() for stage in plan.stages() if stage.folder not in inherited}
    counters = {name: manifest["counters"] for name, manifest in manifests.items()}
    users = counters["users"]
    return {
        "run": plan.config.run,
        "taught_by": plan.config.taught_by,
        "num_users": round(users["users"]),
        "num_queries": round(users["queries"]),
        "num_rejected": round(users["rejected"]),
        **{name: round(users[name]) for name in (*COUNTERS_OF_UPDATES, *COUNTERS_OF_FEEDBACK) if name in users},
        "heads": {
            name: {
                key.removeprefix(_COHORT): round(number)
                for key, number in sorted(counters[f"{name}.heads"].items())
                if key.startswith(_COHORT)
            }
            for name in ("reranker", "adapter")
            if f"{name}.heads" in counters
        },
        **{name: round(sum(each.get(name, 0) for each in counters.values())) for name in ("requests", "asked_now")},
        "seconds": round(sum(manifest["seconds"] for manifest in manifests.values()), 1),
    }
