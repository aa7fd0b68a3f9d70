"""The calibration in a process of the cluster that has what a generator of the run has."""

from hydra_ray.errors import HydraError
from hydra_ray.forecast.calibration import Calibration, CalibrationJob, measure
from hydra_ray.placement import generator_bundle
from hydra_ray.stream import start_ray


def measure_on_worker(job: CalibrationJob) -> Calibration:
    """What `measure` finds there.

    Raises:
        HydraError: as `measure`.
    """
    import ray
    import ray.exceptions

    start_ray()
    placed = ray.remote(
        **generator_bundle(job.placement).options(),
        max_retries=0,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(job.placement.generator_threads)}},
    )
    try:
        return ray.get(placed(measure).remote(job))
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, HydraError) else error from None
