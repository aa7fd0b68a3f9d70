"""Attempts in one process, which does all of a run's work itself and may be killed.

Each is forked from a process in which all modules are loaded, so that it takes a second; `tests/in_process.py` stands
in for Ray.
"""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fault_drivers import HangError, Strikes

from hydra_ray.config import RunConfig

Action = Literal["run", "export", "forget", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Work of one process."""

    action: Action
    config: Mapping[str, Any]
    """Configuration of the run, as JSON."""
    until: str = "answers"
    """Last stage to run."""
    folder: str = ""
    """Folder to export to, or of the export that scores."""
    user_id: str = ""
    """User to forget, or to score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """End of a process."""

    status: int
    """Exit status: 0 done, 2 an error for its user, 1 another error, -9 killed."""
    error: str = ""
    """Class of the error."""
    text: str = ""
    """What it says."""
    found: Any = None
    """Result of the work."""


def work_on(config: RunConfig, action: Action = "run", **options: str) -> Work:
    """Return the work of an action on a run."""
    return Work(action=action, config=config.model_dump(mode="json"), **options)


def attempt(place: Path, work: Work, deadline_seconds: float, strikes: Strikes = ()) -> End:
    """Do the work in a process of its own.

    Args:
        place: folder of the schedule, with the folders of faults and of temporary files.

    Raises:
        HangError: it took too long; it is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_preload"])
    outcome = place / "end.json"
    outcome.unlink(missing_ok=True)
    process = context.Process(target=_work, args=(str(place), asdict(work), list(strikes)))
    process.start()
    process.join(deadline_seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise HangError(f"an attempt took more than {deadline_seconds:.0f} s")
    status = process.exitcode if process.exitcode is not None else -1
    told = json.loads(outcome.read_text()) if outcome.exists() else {}
    return End(status=status, **told)


def temporary_folder(place: Path) -> Path:
    """Return the folder of temporary files of a schedule's processes."""
    return place / "temporary"


def _work(place: str, work: dict[str, Any], strikes: Sequence[tuple[Any, int, Any]]) -> None:
    import fault_points
    import in_process
    import pytest

    folder = Path(place)
    said = os.open(folder / f"said-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(said, stream)
    temporary_folder(folder).mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(temporary_folder(folder))
    tempfile.tempdir = None
    if (folder / "faults").is_dir():
        for point, count, fault in strikes:
            fault_points.order(folder / "faults", point, count, fault)
        fault_points.install(folder / "faults")
    in_process.install(pytest.MonkeyPatch())
    raise SystemExit(_told(folder / "end.json", Work(**work)))


def _told(outcome: Path, work: Work) -> int:
    """Do the work, write how it ended, and return the exit status."""
    import traceback

    from hydra_ray.errors import HydraError

    try:
        told = {"found": _done(work)}
        status = 0
    except HydraError as error:
        told = {"error": type(error).__name__, "text": str(error)}
        status = 2
    except Exception as error:
        told = {"error": type(error).__name__, "text": "".join(traceback.format_exception(error))[-2000:]}
        status = 1
    outcome.write_text(json.dumps(told))
    return status


def _done(work: Work) -> Any:
    from hydra_ray.config import check_config
    from hydra_ray.stages.plan import plan_run

    config = check_config(dict(work.config), source="the disturbed configuration")
    if work.action == "run":
        from hydra_ray.stages.run import personalize

        personalize(config, until=work.until)
        return None
    if work.action == "export":
        from hydra_ray.serving.export import export_run

        export_run(plan_run(config), work.folder)
        return None
    if work.action == "forget":
        from hydra_ray.forget.removal import forget_users

        return [each.is_removed_now for each in forget_users(config.storage.root, [work.user_id])]
    from hydra_ray.lamp.tasks import PLANTED_LABELS
    from hydra_ray.serving.scorer import load_scorer

    query = f"A story built on {PLANTED_LABELS[0]} and {PLANTED_LABELS[5]}."
    return load_scorer(work.folder).score(work.user_id, query, list(PLANTED_LABELS[:6])).by_answer
