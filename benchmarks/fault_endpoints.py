"""Endpoints in trouble: what they reply in a schedule, and how the attempt that meets them must end."""

from collections.abc import Mapping
from random import Random

from fault_points import Point
from fault_replies import MOODS, odd_replies_of, replies_of, without_usage
from fault_schedules import STAGES, Schedule, Trouble
from fault_server import ANSWER, FaultServer

from hydra_ray.config import RunConfig
from hydra_ray.errors import BudgetError, EndpointError
from hydra_ray.stages.plan import Plan

STOPPING = (Trouble.CHANGED_MIND, Trouble.NO_USAGE)
"""Troubles that last until the end of the first attempt, which they may stop between two parts."""
_BUDGET_SHARE = 0.1
"""Share of what a stage takes that the budget leaves for it: less than a part."""


def disturb_endpoint(endpoint: FaultServer, schedule: Schedule, reached: Mapping[Point, int]) -> list[str]:
    """Set the replies to the calls of a schedule; return their kinds.

    Args:
        reached: number of times that each point is reached by the stage that asks.
    """
    endpoint.replies.clear()
    endpoint.usual = ANSWER
    faults: list[str] = []
    if schedule.trouble == Trouble.ENDPOINT:
        faults, replies = replies_of(schedule.seed)
        endpoint.replies.extend(replies)
    elif schedule.trouble == Trouble.ODD_REPLIES:
        faults, replies = odd_replies_of(schedule.seed)
        endpoint.replies.extend(replies)
    elif schedule.trouble == Trouble.NO_USAGE:
        endpoint.usual = without_usage(schedule.variant)
    elif schedule.trouble == Trouble.CHANGED_MIND:
        mood = MOODS[schedule.variant]
        num_good = Random(schedule.seed).randrange(reached[Point.GENERATE] - 1)  # a batch has a call or more
        endpoint.replies.extend([ANSWER] * num_good)
        if mood.is_once:
            endpoint.replies.append(mood.refusal)
        else:
            endpoint.usual = mood.refusal
    return faults


def within_budget(config: RunConfig, undisturbed: Plan, victim: str) -> RunConfig:
    """Return the configuration with a budget that the stage which asks exceeds with its first part."""
    before = STAGES[: STAGES.index(victim)]
    taken = {name: undisturbed.stage(name).manifest()["counters"]["asked_tokens"] for name in (*before, victim)}
    most = sum(taken[name] for name in before) + _BUDGET_SHARE * taken[victim]
    return config.model_copy(update={"budget": config.budget.model_copy(update={"max_tokens": int(most)})})


def wrong_end(schedule: Schedule, error: Exception | None) -> list[str]:
    """Return what is wrong with how the first attempt ended."""
    if schedule.trouble == Trouble.NO_USAGE and not isinstance(error, BudgetError):
        return [f"an endpoint that tells no usage ({schedule.variant}) exceeded the budget: {error!r}"]
    if schedule.trouble == Trouble.CHANGED_MIND:
        mood = MOODS[schedule.variant]
        if mood.stops and not (isinstance(error, EndpointError) and mood.names in str(error)):
            return [f"an endpoint that says {schedule.variant} to every call did not stop the run by name: {error!r}"]
        if mood.is_once and error is not None:
            return [f"an endpoint that says {schedule.variant} stopped the run: {error!r}"]
    return []
