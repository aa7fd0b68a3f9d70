"""Compaction of a run's updates: of everybody who came with one of them, the newest history and heads in one stage.

Nothing that is there is changed or removed, so whoever reads updates meanwhile goes on with them; who comes later reads
the stage once it is whole. What was compacted before is read in the place of the updates that it has.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.findings import counted
from hydra_ray.lamp.users import USERS
from hydra_ray.rows import User, arrow_schema
from hydra_ray.runs.lease import claim
from hydra_ray.runs.run_folder import FinishedRun, open_finished, read_config, root_of_run
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import (
    COMPACTED,
    Layer,
    Update,
    compacted_stages,
    layer_parts,
    layers_of,
    newest_of,
    updates_of,
)
from hydra_ray.scorer.heads.store import HEADS_SCHEMA, Lineage, heads_table, prior_folder, read_lineage
from hydra_ray.serving.export_folder import FOLD, SCORERS
from hydra_ray.serving.known import CODES
from hydra_ray.serving.tables import write_head_rows, write_histories
from hydra_ray.stages.own_heads import own_lineage

_log = logging.getLogger(__name__)


def compact_updates(run_folder: str, least: int = 1, known: Iterable[Update] = ()) -> int:
    """Compact all finished updates of a run; a call that is killed goes on with the next one.

    Args:
        least: number of updates from which on it is done, of those that are not compacted yet.
        known: updates of the run as they were before; see `updates_of`.

    Returns:
        Number of updates that were not compacted before; 0 where nothing is done.

    Raises:
        InputError: there is no such run, it is not finished, or it is itself an update.
        StorageError: a part of an update is missing or damaged.
    """
    root, run = root_of_run(run_folder), read_config(run_folder).run
    finished = open_finished(root, run)
    if finished.config.taught_by is not None:
        raise InputError(f"{run_folder} is an update of the run {finished.config.taught_by}: give that run instead")
    updates = [each for each in updates_of(root, run, known) if each.is_finished]
    layers = layers_of(root, run, updates)
    num_new = sum(COMPACTED not in each.stages for each in layers)
    if num_new < max(least, 1):
        return 0
    stage = compacted_stages(root, run, updates)[-1]
    with claim(stage):
        if not stage.is_complete():
            _compact(stage, layers, _lineages(finished))
    _log.info("compacted: what %s brought", counted(len(updates), "update"))
    return num_new


def _compact(stage: Stage, layers: Sequence[Layer], lineages: Mapping[str, Lineage]) -> None:
    started = time.monotonic()
    for bucket in stage.buckets:
        users = stage.part(f"{USERS}/{USERS}", bucket)
        parts = layer_parts(USERS, layers, USERS, bucket)
        if not parts or storage.exists(users):
            continue
        for name, lineage in lineages.items():
            table = heads_table(FOLD)
            if heads := layer_parts(name, layers, table, bucket):
                write_head_rows(stage.part(f"{name}/{table}", bucket), newest_of(heads, HEADS_SCHEMA), lineage)
        # Last, since it says that the bucket is done.
        write_histories(users, newest_of(parts, arrow_schema(User)))
    stage.complete(time.monotonic() - started, {})


def _lineages(run: FinishedRun) -> dict[str, Lineage]:
    """Return the lineage of each table of heads, by the name of its stage. Nothing is planned: the run's input may be
    gone."""
    heads = [run.stages[name] for name in map("{}.heads".format, SCORERS) if name in run.stages]
    found = {each.name: read_lineage(prior_folder(each.folder, FOLD)) for each in heads}
    return {**found, CODES: own_lineage(run.stages)} if CODES in run.stages else found
