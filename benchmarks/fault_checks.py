"""Checks of a run that was disturbed and resumed: it equals the undisturbed one, and no request was paid twice."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_ray.runs.stage import Stage
from hydra_ray.stages.plan import Plan
from hydra_ray.storage import exists, read_if_there, read_part

_BY_ROW = ("profiles", "probes", "drafts", "errors")
"""Tables with seconds in the footer or numbers of `attempts`: only their rows must be equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Differences of a run's tables from those of the undisturbed one."""

    num_lost: int
    """Number of missing rows."""
    num_duplicate: int
    """Number of surplus rows."""
    changed: tuple[str, ...]
    """Tables and files that are not equal."""


def compare(plan: Plan, undisturbed: Plan, stages: Collection[str] = (), unequal: Collection[str] = ()) -> Difference:
    """Compare all tables from users to answers, and the predictions; or only those of some stages.

    Args:
        unequal: columns, also within others, that may differ: what was counted, where an endpoint did not tell it.

    In another batch a model's probabilities differ in the last bits, so with vLLM the answers, choices and predictions
    are compared, without floating-point numbers.
    """
    lost = duplicate = 0
    is_model = plan.config.generator.engine == "vllm"
    changed: list[str] = []
    for stage, table in _tables(plan):
        if stages and stage.name not in stages:
            continue
        expected = undisturbed.stage(stage.name)
        for bucket in stage.buckets:
            ours, theirs = stage.part(table, bucket), expected.part(table, bucket)
            if not exists(ours):
                lost += read_part(theirs).num_rows
                changed.append(ours)
                continue
            counts = [_rows(each, is_model, unequal) for each in (ours, theirs)]
            lost += (counts[1] - counts[0]).total()
            duplicate += (counts[0] - counts[1]).total()
            is_same = counts[0] == counts[1] if is_model or table in _BY_ROW else _is_same_file(ours, theirs)
            changed += [] if is_same else [ours]
    if stages and plan.answers.name not in stages:
        return Difference(num_lost=lost, num_duplicate=duplicate, changed=tuple(changed))
    files = [f"{each.answers.folder}/predictions.json" for each in (plan, undisturbed)]
    changed += [] if exists(files[0]) and _is_same_file(*files) else [files[0]]
    return Difference(num_lost=lost, num_duplicate=duplicate, changed=tuple(changed))


def _rows(location: str, without_floats: bool, unequal: Collection[str]) -> Counter[str]:
    table = read_part(location)
    # How often a call was repeated is the endpoint's doing.
    named = table.select([name for name in table.column_names if name != "attempts"]).to_pylist()
    rows = [_without(row, unequal) for row in named]
    return Counter(str(_without_floats(row) if without_floats else row) for row in rows)


def _without(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(each, names) for key, each in value.items() if key not in names}
    return [_without(each, names) for each in value] if isinstance(value, list) else value


def _without_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_floats(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_floats(each) for each in value]
    return None if isinstance(value, float) else value


def paid_again(events: Iterable[tuple[str, Sequence[str]]]) -> tuple[list[str], list[str]]:
    """Requests that were paid more than once.

    Args:
        events: "paid", "kept" or "dropped" with request ids, in the order in which it happened.

    Returns:
        Those that had been kept before they were paid again, which must not be; those that were in flight.
    """
    paid: set[str] = set()
    kept: set[str] = set()
    needless: list[str] = []
    in_flight: list[str] = []
    for event, ids in events:
        if event == "kept":
            kept.update(ids)
            continue
        if event == "dropped":  # to be asked again, as was wanted
            kept.difference_update(ids)
            paid.difference_update(ids)
            continue
        needless += [each for each in ids if each in kept]
        in_flight += [each for each in ids if each in paid and each not in kept]
        paid.update(ids)
    return needless, in_flight


def _tables(plan: Plan) -> Iterator[tuple[Stage, str]]:
    yield from ((plan.users, "users"), (plan.users, "rejected"), (plan.probes, "retrieved"))
    for stage in (plan.profiles, plan.probes, plan.drafts):
        yield from ((stage, stage.name), (stage, "errors"))
    yield from ((plan.reranker.examples, "examples"), (plan.gate, "gate"), (plan.answers, "answers"))


def _is_same_file(first: str, second: str) -> bool:
    return read_if_there(first) == read_if_there(second)
