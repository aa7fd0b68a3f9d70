"""The calibration in a process of the cluster that has what a generator of the run has."""

from hydra_ray.engine.ray_data import start_ray
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.forecast.calibration import Calibration, CalibrationJob, measure
from hydra_ray.runs.resources import generator_bundle


def measure_on_worker(job: CalibrationJob) -> Calibration:
    """What `measure` finds there.

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
