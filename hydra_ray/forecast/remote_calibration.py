"""Calibration on a worker with the resources of a generator of the run."""

from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.forecast.calibration import Calibration, CalibrationJob, measure
from hydra_ray.runs.resources import generator_bundle


def measure_on_worker(job: CalibrationJob) -> Calibration:
    """Return the result of `measure`, run on a worker of the cluster.

    Raises:
        HydraError: as `measure`.
    """
    import ray

    start_ray()
    placed = ray.remote(
        **generator_bundle(job.placement).options(),
        max_retries=0,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(job.placement.generator_threads)}},
    )
    with tells_reason():
        return ray.get(placed(measure).remote(job))
