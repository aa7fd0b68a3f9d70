"""The configuration of a run: one YAML file, checked as a whole before anything starts."""

from hydra_ray.config.task import *  # noqa: F403
from hydra_ray.config.task import LabelKey, Name, RunName  # noqa: F401
