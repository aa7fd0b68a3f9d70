"""All runs below a root, a line each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra_ray import storage
from hydra_ray.commands.run_state import RunState, state_of
from hydra_ray.commands.status import stage_text
from hydra_ray.errors import HydraError, InputError
from hydra_ray.evaluate.phrases import duration
from hydra_ray.storage.parallel import mapped

_RUNS = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Folder whose run cannot be told. Key: folder."""

    folder: str
    reason: str


def runs_below(root: str) -> list[RunState | Unreadable]:
    """Return the states of all runs below a root, in the order of their names.

    Args:
        root: storage root; a folder of its `runs` or one run's folder are taken for the root above.

    Raises:
        InputError: there are no runs.
    """
    above = _root_above(root)
    names = sorted({path.partition("/")[0] for path in storage.list_tree(storage.join(above, _RUNS)) if "/" in path})
    if not names:
        raise InputError(f"no runs below {root}: give a storage.root, in which there is a folder {_RUNS}")
    return list(mapped(_state_or_reason, [storage.join(above, _RUNS, name) for name in names]))


def runs_lines(states: Sequence[RunState | Unreadable]) -> Iterator[str]:
    """Yield a line for each run, and one below it with what it shows or how far it is."""
    width = max(len(_name_of(each.folder)) for each in states)
    for each in states:
        name = f"{_name_of(each.folder):<{width}}"
        if isinstance(each, Unreadable):
            yield f"{name}  cannot be told: {each.reason}"
            continue
        yield f"{name}  {each.state:<8}  {_stages(each)}  {_used(each)}"
        yield f"{'':{width}}  {_last(each)}"


def _state_or_reason(folder: str) -> RunState | Unreadable:
    try:
        return state_of(folder)
    except HydraError as error:
        return Unreadable(folder=folder, reason=str(error))


def _root_above(location: str) -> str:
    parts = location.rstrip("/").rsplit("/", 2)
    if parts[-1] == _RUNS:
        return "/".join(parts[:-1])
    return parts[0] if parts[-2:-1] == [_RUNS] else location.rstrip("/")


def _name_of(folder: str) -> str:
    return folder.rsplit("/", 1)[1]


def _stages(state: RunState) -> str:
    return f"{state.num_complete:>2} of {len(state.stages)} stages"


def _used(state: RunState) -> str:
    totals = state.totals()
    pieces = [duration(totals["seconds"]), f"{totals['requests']:,.0f} requests"]
    pieces.append(f"{totals['prompt_tokens'] + totals['generated_tokens']:,.0f} tokens")
    pieces += [f"cost {totals['cost']:,.2f}"] if totals["cost"] else []
    pieces += [f"{totals['failed']:,.0f} failed"] if totals["failed"] else []
    return ", ".join(pieces)


def _last(state: RunState) -> str:
    if state.current is not None:
        by = f" ({state.worker})" if state.worker else ""
        return f"{state.current.name}: {stage_text(state.current)}{by}"
    return state.headline or state.report or "answers without a report"
