"""HYDRA (Zhuang et al., NeurIPS 2024, arXiv 2406.02888) as one distributed batch job on Ray.

    from hydra_ray import load_run, load_scorer, predict, run

Importing this package loads nothing: each name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_ray.api import Run, load_run, run
    from hydra_ray.commands.predict_tables import predict
    from hydra_ray.serving.scorer import ServedScorer, load_scorer

__version__ = "0.1.0"
"""Version of this package. pyproject.toml reads it from here, so a checkout that is not installed has it too."""
__all__ = ["Run", "ServedScorer", "load_run", "load_scorer", "predict", "run"]

_MODULES = {
    "Run": "hydra_ray.api",
    "ServedScorer": "hydra_ray.serving.scorer",
    "load_run": "hydra_ray.api",
    "load_scorer": "hydra_ray.serving.scorer",
    "predict": "hydra_ray.commands.predict_tables",
    "run": "hydra_ray.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hydra_ray.extras import naming_extras

    with naming_extras():
        return getattr(import_module(_MODULES[name]), name)
