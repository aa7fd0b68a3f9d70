"""Disk space of a run."""

from hydra_ray import storage
from hydra_ray.forecast.counting import StageVolume
from hydra_ray.lamp.users import USERS
from hydra_ray.models import weight_bytes
from hydra_ray.stages.plan import Plan

_REQUEST_BYTES = 500
"""Compressed bytes per request over all tables that store something of it."""
_FOLD_BYTES = 250
"""Additional compressed bytes per request for each fold of a cross-fitted run."""


def expected_bytes(plan: Plan, volumes: list[StageVolume]) -> float:
    """Return the expected bytes of the whole run below its root."""
    users = sum(storage.file_state(location)[0] for location in plan.users.parts(USERS))
    bases = sum(
        len(set(scorer.base_folds)) * (weight_bytes(scorer.config.base.encoder) or 0)
        for scorer in (plan.reranker, plan.adapter)
        if plan.parent is None
    )
    requests = sum(volume.all.requests.value for volume in volumes)
    return run_bytes(users, bases, requests, plan.reranker.num_folds)


def run_bytes(users_bytes: float, bases_bytes: float, num_requests: float, num_folds: int) -> float:
    """Return the bytes of a run's users, of its bases, and of all tables that store something of a request."""
    return users_bytes + bases_bytes + num_requests * (_REQUEST_BYTES + _FOLD_BYTES * num_folds)
