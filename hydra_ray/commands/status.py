"""Progress of a run as text: parts, time and tokens of each stage."""

import sys
import time
from collections.abc import Callable, Iterator

from hydra_ray.commands.line import line_lines
from hydra_ray.commands.run_state import RunState, StageState, state_of
from hydra_ray.findings import counted

_SHOWN = ("rows", "requests", "generated_tokens", "thoughts", "thought_tokens", "failed")
_CLEAR = "\x1b[H\x1b[J"
"""Moves to the top of a terminal and clears it."""


def status_lines(run_folder: str) -> Iterator[str]:
    """Yield the lines of the run in a folder, and of its updates.

    Raises:
        InputError: there is no run in the folder.
    """
    yield from state_lines(state_of(run_folder))
    yield from line_lines(run_folder)


def state_lines(state: RunState) -> Iterator[str]:
    """Yield one line per stage of a run, and one per batch under way."""
    yield f"run {state.run}, task {state.task}, {counted(state.num_parts, 'part')} a table: {_who(state)}"
    for each in state.stages:
        yield f"  {each.name:<20} {stage_text(each)}"
    yield from (f"  {line}" for line in state.batches)
    if state.headline:
        yield state.headline
    yield f"report: {state.report or 'not yet; run the same configuration to resume'}"


def watch(
    run_folder: str,
    seconds: float,
    show: Callable[[str], None],
    *,
    is_terminal: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the progress of a run until no process works on it: on a terminal in one place, else each line that changed.

    Args:
        seconds: time between two looks.
        show: puts a text out.

    Returns:
        0 where the run is finished, 1 where it is not.

    Raises:
        InputError: there is no run in the folder.
    """
    shown: frozenset[str] = frozenset()
    while True:
        state = state_of(run_folder)
        lines = [*state_lines(state)]
        if is_terminal:
            show(_CLEAR + "\n".join(lines) + "\n")
        elif new := [line for line in lines if line not in shown]:
            show("\n".join(new) + "\n")
        shown = frozenset(lines)
        if state.state != "at work":
            return int(state.state != "finished")
        sleep(seconds)


def stage_text(state: StageState) -> str:
    """Return how far a stage is."""
    if state.is_complete:
        pieces = [f"complete  {state.seconds or 0:8.1f} s"]
        pieces += [f"{state.counters[name]:.0f} {name.replace('_', ' ')}" for name in _SHOWN if name in state.counters]
        return ", ".join(pieces)
    if not state.num_parts:
        return "waiting or running"
    return f"{state.num_done} of {state.num_parts} parts"


def put_out(text: str) -> None:
    """Write a text to the standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _who(state: RunState) -> str:
    return f"{state.worker} is at work" if state.worker else state.state
