"""Budget of a run: compares what its committed parts have cost with what the run may cost.

The check runs between parts, so a run may exceed its budget by the cost of the parts in flight.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hydra_ray.config import PlacementConfig, RunConfig
from hydra_ray.errors import BudgetError
from hydra_ray.runs.stage import Stage
from hydra_ray.storage import read_counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Tokens and money spent on the generator."""

    tokens: float
    """Prompt and generated tokens of requests that were not answered from the store."""
    cost: float
    """Cost by the prices of `generator.api` and by the price of an hour."""


def spending_of(counters: Iterable[Mapping[str, float]], config: RunConfig) -> Spending:
    """Return the spending recorded in the counters of generating stages, or of their parts."""
    tokens = cost = 0.0
    for each in counters:
        tokens += each.get("asked_tokens", 0.0)
        # Each copy counts its own seconds.
        hours = each.get("generator_seconds", 0.0) * units_of_copy(config.placement) / 3600
        cost += each.get("cost", 0.0) + hours * config.budget.hour_price
    return Spending(tokens=tokens, cost=cost)


def committed_counters(stages: Iterable[tuple[Stage, str]]) -> list[Mapping[str, float]]:
    """Return the counters of everything committed in some stages, each given with the name of its table."""
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
    """Check that a run may send more requests to the generator.

    Args:
        is_anything_left: tells whether requests remain; called only when the budget is used up, so that a stage with
            no further requests can complete.

    Raises:
        BudgetError: the budget is used up and requests remain.
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


def require_room(config: RunConfig, spent: Spending, planned: Spending) -> None:
    """Check that what is submitted at once, and cannot be stopped on the way, stays within the budget.

    Args:
        spent: what the run has spent.
        planned: the most that the work may cost.

    Raises:
        BudgetError: it may cost more than is left.
    """
    budget = config.budget
    limits = (
        ("max_tokens", budget.max_tokens, spent.tokens, planned.tokens),
        ("max_cost", budget.max_cost, spent.cost, planned.cost),
    )
    for name, limit, used, most in limits:
        if limit is not None and used + most > limit:
            raise BudgetError(
                f"the run {config.run} has used {used:,.6g} of budget.{name}={limit:,.6g}, and the next batches may "
                f"take {most:,.6g}, with answers as long as they may be. Nothing was submitted. Raise budget.{name} to "
                f"{used + most:,.6g}, or set generator.engine to openai, which asks until the budget is used up."
            )


def units_of_copy(placement: PlacementConfig) -> float:
    """Return the number of GPUs that a copy of the generator holds, or of CPUs where it holds no GPU."""
    return placement.generator_gpus or placement.generator_cpus
