"""Telling experiment trackers of a finished run, each once."""

import logging
from pathlib import Path

from hydra_ray import storage
from hydra_ray.evaluate.metrics_file import REPORT_ANEW
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.report import METRICS
from hydra_ray.stages.trackers import tell, tracked_of
from hydra_ray.temporary import temporary_folder

logger = logging.getLogger(__name__)

TRACKED = "trackers.json"
"""Name of the file in a run's folder that says which tracker was told of which report."""
EVENTS = "tensorboard"
"""Name of the folder in a run's folder that TensorBoard reads."""


def tell_trackers(plan: Plan) -> None:
    """Tell the trackers that a run names of its report, unless they were told before; one that fails is warned of, and
    told when the run is run again."""
    location = storage.join(plan.run_folder, TRACKED)
    told: dict[str, str] = storage.read_json(location) if storage.exists(location) else {}
    wanted = [each for each in plan.config.report.trackers if told.get(each) != plan.report.fingerprint]
    metrics = storage.join(plan.report.folder, METRICS)
    if not wanted or not storage.exists(metrics):  # users without a target have no report
        return
    tracked = tracked_of(storage.read_json(metrics, anew=REPORT_ANEW))
    for tracker in wanted:
        try:
            with temporary_folder("tracker") as folder:
                tell(tracker, tracked, Path(folder))
                _keep(folder, storage.join(plan.run_folder, EVENTS))
        except Exception as error:  # whatever a tracker raises: the run is finished all the same
            message = "%s was not told of the run (%s: %s); the same command tries again"
            logger.warning(message, tracker, type(error).__name__, str(error)[:300])
        else:
            told[tracker] = plan.report.fingerprint
    storage.write_json(location, told)


def _keep(folder: str, destination: str) -> None:
    """Copy what a tracker wrote to the place of what it wrote before."""
    if names := storage.list_tree(folder):
        storage.remove_folder(destination)
        storage.copy_files(folder, destination, names)
