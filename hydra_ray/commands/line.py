"""The line of a run's updates: who came, with what, and how well it was answered."""

from collections.abc import Iterator
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.phrases import headline
from hydra_ray.findings import counted
from hydra_ray.runs.run_folder import read_config, run_folder_of
from hydra_ray.runs.updates import updates_of


def line_lines(run_folder: str) -> Iterator[str]:
    """Yield a heading and one line for each update of a run, oldest first, and one more where targets were known;
    nothing for a run without any, and for metrics that were copied out of a run's folder.
    """
    try:
        config = read_config(run_folder)
    except InputError:
        return
    updates = updates_of(config.storage.root, config.run)
    if updates:
        yield f"{counted(len(updates), 'update')}:"
    for each in updates:
        folder = run_folder_of(config.storage.root, each.run)
        if not each.is_finished:
            yield f"  {each.run}: not finished; the next update finishes it first"
            continue
        yield f"  {each.run}: {users_text(storage.read_json(storage.join(folder, 'summary.json')))}"
        if storage.exists(storage.join(folder, "metrics.json")):
            yield f"    {headline(read_report(folder))}"


def users_text(summary: dict[str, Any]) -> str:
    """Return whom an update brought, and with what, in one line.

    Args:
        summary: see `hydra_ray.stages.update_summary`.
    """
    returning = summary.get("returning_users", 0)
    changes = [
        counted(returning, "user came back", "users came back"),
        counted(summary["num_users"] - returning, "new user"),
        counted(summary.get("added_records", 0), "new record"),
        f"{counted(summary.get('changed_records', 0), 'record')} replaced or deleted",
        f"{counted(summary['num_queries'], 'query', 'queries')} answered",
        f"{counted(summary['num_rejected'], 'sample')} rejected",
    ]
    if judged := summary.get("judged_answers"):
        preferred = summary["preferred_answers"]
        changes.append(f"the answer given was preferred in {preferred} of {judged} cases ({preferred / judged:.0%})")
    return ", ".join(changes)
