"""Outcomes of schedules as text: a line each, and a table by kind of fault."""

from collections import Counter
from collections.abc import Sequence

from fault_outcomes import Outcome
from fault_schedules import KINDS

_HEADS = ("kind", "schedules", "as undisturbed", "not", "attempts", "paid twice", "needlessly", "refusals by name")


def line(outcome: Outcome) -> str:
    """Return the outcome of one schedule in one line."""
    description = f"{outcome.schedule}; {outcome.num_attempts} attempts, {outcome.seconds:.1f} s"
    if outcome.is_good:
        return f"{description}: as undisturbed"
    found = outcome.difference
    return (
        f"{description}: NOT as undisturbed: {found.num_lost} rows lost, {found.num_duplicate} duplicate, "
        f"{outcome.paid_needlessly} requests paid needlessly, changed: {list(found.changed)}, {list(outcome.problems)}"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a table of all schedules by kind, and their sums in a few lines."""
    rows = [
        _row(str(kind), own) for kind in KINDS if (own := [each for each in outcomes if each.schedule.kind == kind])
    ]
    rows.append(_row("all", outcomes))
    widths = [max(len(row[place]) for row in [_HEADS, *rows]) for place in range(len(_HEADS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [_HEADS, *rows]]
    return "\n".join([*(each.rstrip() for each in table), _sums(outcomes)])


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    refusals = Counter(name for each in outcomes for name in each.refusals)
    return (
        name,
        str(len(outcomes)),
        str(sum(each.is_good for each in outcomes)),
        str(sum(not each.is_good for each in outcomes)),
        str(sum(each.num_attempts for each in outcomes)),
        str(sum(each.paid_in_flight for each in outcomes)),
        str(sum(each.paid_needlessly for each in outcomes)),
        ", ".join(f"{name} {count}" for name, count in sorted(refusals.items())),
    )


def _sums(outcomes: Sequence[Outcome]) -> str:
    struck = Counter(str(fault) for outcome in outcomes for fault in outcome.struck)
    return (
        f"{len(outcomes)} schedules, struck: {', '.join(f'{name} {count}' for name, count in sorted(struck.items()))}; "
        f"lost rows {sum(each.difference.num_lost for each in outcomes)}, "
        f"duplicate rows {sum(each.difference.num_duplicate for each in outcomes)}; "
        f"requests paid twice {sum(each.paid_in_flight for each in outcomes)} in flight, "
        f"{sum(each.paid_needlessly for each in outcomes)} others; "
        f"longest {max((each.seconds for each in outcomes), default=0):.1f} s; "
        f"{sum(not each.is_good for each in outcomes)} not as undisturbed"
    )
