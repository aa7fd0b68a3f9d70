"""A scorer by location: of an export or of a finished run, on this machine or in an object store."""

from contextlib import ExitStack

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.runs.root import absolute_root
from hydra_ray.runs.run_folder import has_config
from hydra_ray.serving.export import export_run
from hydra_ray.serving.export_folder import DESCRIPTION
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.plan import plan_recorded
from hydra_ray.temporary import temporary_folder


def open_scorer(location: str, stack: ExitStack) -> ServedScorer:
    """Load the scorer of an export, or of a finished run, which is exported first.

    Args:
        location: folder or URI of either; a run's is `<storage.root>/runs/<run>`.
        stack: closes a local copy, which there is of all but a local export; the scorer must not be used after it.

    Raises:
        InputError: it is neither, or a run that is not finished.
        HydraError: as `load_scorer` and `export_run`.
    """
    place = absolute_root(location)
    is_export = storage.exists(storage.join(place, DESCRIPTION))
    if is_export and not storage.is_uri(place):
        return load_scorer(place)
    if not is_export and not has_config(place):
        raise InputError(
            f"{location} is neither an export nor a run: give a folder or URI that `hydra-ray export` made, or "
            "<storage.root>/runs/<run>"
        )
    folder = stack.enter_context(temporary_folder("served"))
    if is_export:
        storage.copy_files(place, folder, storage.list_tree(place))
    else:
        export_run(plan_recorded(place), folder)
    return load_scorer(folder)
