"""What the updates of an exported run tell of users: pulled from below the run's root to a folder beside the export.

A pulled folder has the layout of an export's tables of users, with nobody in it but who came with an update that the
export does not hold. It is whole before anybody is read from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hydra_ray.errors import InputError
from hydra_ray.lamp.users import USERS
from hydra_ray.rows import User, arrow_schema
from hydra_ray.runs.root import forgetting, forgotten_pseudonyms
from hydra_ray.runs.run_folder import FinishedRun, open_finished, read_config, root_of_run
from hydra_ray.runs.updates import Layer, Update, layer_parts, layers_of, newest_of, updates_of
from hydra_ray.scorer.heads.store import HEADS_SCHEMA, Lineage, heads_table
from hydra_ray.serving.export_folder import FOLD, Exported
from hydra_ray.serving.tables import write_head_rows, write_histories
from hydra_ray.storage.locations import reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """State of a run's updates, and who was forgotten."""

    run_folder: str = ""
    """Folder of the run; empty before the first look, which so always makes sure that it is the exported run."""
    updates: tuple[str, ...] = ()
    """Names of the finished updates that the export does not hold, oldest first."""
    forgotten: frozenset[str] = frozenset()
    """Pseudonyms of everybody who was removed from the run's root."""
    line: tuple[Update, ...] = field(default=(), compare=False)
    """All updates, so that the next look reads the new ones alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """A generation that was pulled."""

    generation: Generation
    layer: Exported | None
    """Tables of the users who came with these updates; None where there is no update."""
    is_forgotten: Callable[[str], bool]
    """Whether a user was removed from the run's root, by user_id."""


def generation_of(exported: Exported, run_folder: str, before: Generation) -> Generation:
    """Return the newest generation of the exported run.

    Args:
        before: the generation as it was before.

    Raises:
        InputError: there is no such run.
    """
    config = read_config(run_folder)
    reach(config.storage)
    root = root_of_run(run_folder)
    line = updates_of(root, config.run, before.line)
    return Generation(
        run_folder=run_folder,
        updates=tuple(each.run for each in line if each.is_finished and each.run not in exported.updates),
        forgotten=forgotten_pseudonyms(root),
        line=tuple(line),
    )


def pull_generation(
    exported: Exported, lineages: Mapping[str, Lineage], run_folder: str, generation: Generation, folder: str
) -> Pulled:
    """Copy what a generation tells of users to an empty local folder.

    Args:
        lineages: lineage of each table of heads, by the name of its stage.

    Raises:
        InputError: the run is not the exported one.
        StorageError: a part of an update is missing or damaged.
    """
    root, run = root_of_run(run_folder), read_config(run_folder).run
    _require_exported(exported, open_finished(root, run), run_folder)
    # What is compacted may have some that the export holds too: of their users, the rows of then or newer ones.
    layers = [each for each in layers_of(root, run, generation.line) if {*each.updates} & {*generation.updates}]
    layer = replace(exported, folder=folder)
    for bucket in layer.stage(USERS).buckets:
        _pull_bucket(layer, lineages, layers, bucket)
    # Receipts are written before anything of a user is removed: who is half removed by now is known by them.
    return Pulled(
        generation=replace(generation, forgotten=forgotten_pseudonyms(root)),
        layer=layer if layers else None,
        is_forgotten=forgetting(root),
    )


def _pull_bucket(layer: Exported, lineages: Mapping[str, Lineage], layers: Sequence[Layer], bucket: int) -> None:
    if parts := layer_parts(USERS, layers, USERS, bucket):
        write_histories(layer.stage(USERS).part(USERS, bucket), newest_of(parts, arrow_schema(User)))
    for name, lineage in lineages.items():
        table = heads_table(FOLD)
        if parts := layer_parts(name, layers, table, bucket):
            write_head_rows(layer.stage(name).part(table, bucket), newest_of(parts, HEADS_SCHEMA), lineage)


def _require_exported(exported: Exported, run: FinishedRun, run_folder: str) -> None:
    for name, expected in exported.fingerprints.items():
        if name not in run.stages or run.stages[name].fingerprint != expected:
            raise InputError(
                f"{run_folder} is not the run that was exported to {exported.folder}, or was made anew since: its "
                f"stage {name} is another one. Export it again."
            )
