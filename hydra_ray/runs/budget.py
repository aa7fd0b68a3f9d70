"""The budget of a run: what it has used, by its committed parts, against what it may cost.

It is looked at between parts, so a run may exceed it by what the parts under way take.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hydra_ray.config import PlacementConfig, RunConfig
from hydra_ray.errors import BudgetError
from hydra_ray.runs.stage import Stage
from hydra_ray.storage import read_counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What was asked of the generator and is paid for."""

    tokens: float
    """Of prompts and answers that were not known before."""
    cost: float
    """By the prices of `generator.api` and of an hour."""


def spending_of(counters: Iterable[Mapping[str, float]], config: RunConfig) -> Spending:
    """What counters of asking stages, or of their parts, come to."""
    tokens = cost = 0.0
    for each in counters:
        tokens += each.get("asked_tokens", 0.0)
        # Each copy counts its own seconds.
        hours = each.get("generator_seconds", 0.0) * units_of_copy(config.placement) / 3600
        cost += each.get("cost", 0.0) + hours * config.budget.hour_price
    return Spending(tokens=tokens, cost=cost)


def committed_counters(stages: Iterable[tuple[Stage, str]]) -> list[Mapping[str, float]]:
    """Counters of everything that is committed of some stages, each with the name of its table."""
    return [
        counters
        for stage, table in stages
        for counters in (
            [stage.manifest()["counters"]]
            if stage.is_complete()
            else [read_counters(stage.part(table, bucket)) for bucket in stage.committed_buckets(table)]
        )
    ]


def require_within(config: RunConfig, spent: Spending, is_anything_left: Callable[[], bool]) -> None:
    """Check that a run may go on asking.

    Args:
        is_anything_left: asked only where the budget is used up; a stage that is done with it may end.

    Raises:
        BudgetError: it has used what it may.
    """
    budget = config.budget
    limits = (("max_tokens", budget.max_tokens, spent.tokens), ("max_cost", budget.max_cost, spent.cost))
    for name, limit, used in limits:
        if limit is not None and used >= limit and is_anything_left():
            raise BudgetError(
                f"the run {config.run} has used {used:,.6g} of budget.{name}={limit:,.6g} and stops. What is committed "
                f"is kept: `hydra-ray plan` tells what is left to ask, and the same configuration with a larger "
                f"budget.{name} goes on."
            )


def units_of_copy(placement: PlacementConfig) -> float:
    """GPUs that a copy of the generator holds, or CPUs where it holds no GPU."""
    return placement.generator_gpus or placement.generator_cpus
