"""Progress of a run: parts, time and tokens of each stage, read from the run's folder."""

from collections.abc import Iterator

from hydra_ray import storage
from hydra_ray.commands.line import line_lines
from hydra_ray.commands.stop import batch_line, batches_of_run
from hydra_ray.findings import counted
from hydra_ray.stages.outline import StageOutline, read_outline


def status_lines(run_folder: str) -> Iterator[str]:
    """Yield one line per stage of the run in `run_folder`, and one per batch under way and per update.

    Raises:
        InputError: there is no run in the folder.
    """
    outline = read_outline(run_folder)
    yield f"run {outline.run}, task {outline.task}, {counted(outline.num_parts, 'part')} a table"
    for each in outline.stages:
        yield f"  {each.stage.name:<20} {_state(each)}"
    yield from (f"  {batch_line(record)}" for _, record in batches_of_run(run_folder).values())
    report = storage.join(run_folder, "report.html")
    yield f"report: {report}" if storage.exists(report) else "report: not yet; run the same configuration to resume"
    yield from line_lines(run_folder)


def _state(outline: StageOutline) -> str:
    stage, tables = outline.stage, outline.tables
    if stage.is_complete():
        manifest = stage.manifest()
        counters = manifest["counters"]
        pieces = [f"complete  {manifest['seconds']:8.1f} s"]
        shown = ("rows", "requests", "generated_tokens", "thoughts", "thought_tokens", "failed")
        pieces += [f"{counters[name]:.0f} {name.replace('_', ' ')}" for name in shown if name in counters]
        return ", ".join(pieces)
    if not tables:
        return "waiting or running"
    num_parts = len(tables) * len(stage.buckets)
    num_missing = sum(len(stage.missing_buckets(table)) for table in tables)
    return f"{num_parts - num_missing} of {num_parts} parts"
