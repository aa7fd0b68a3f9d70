"""Imports of the processes of `fault_process.py`, made once in the process that they are forked from."""

# Imported for what they bring along.
import fault_points  # noqa: F401
import in_process  # noqa: F401
import ray.data  # noqa: F401
import torch  # noqa: F401

import hydra_ray.serving.export
import hydra_ray.serving.scorer
import hydra_ray.stages.run  # noqa: F401
from hydra_ray.stages.definition import definitions

definitions()
