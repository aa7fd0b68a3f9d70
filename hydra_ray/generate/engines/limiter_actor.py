"""Cluster-wide rate limiter: a named Ray actor that all copies of the generator of all runs share."""

import hashlib
import json
from typing import Any

from hydra_ray.config import ApiConfig
from hydra_ray.generate.rate_limits import Limiter, Turns

_NAMESPACE = "hydra_ray"
_MAX_CALLERS = 100_000
"""Maximum number of callers that wait in the actor at the same time."""


def open_limiter(api: ApiConfig) -> Turns:
    """Return an endpoint's limiter: the cluster's, or one of this process where Ray is not running."""
    import ray

    return ClusterLimiter(api) if ray.is_initialized() else Limiter(api)


class ClusterLimiter:
    """Rate limiter of a model at an endpoint with one key, shared by a Ray cluster.

    The actor outlives the run: concurrent and later runs share it. The limits of the most recent run apply. It reserves
    no CPU. If it dies, a new one starts without the calls of the last minute.
    """

    def __init__(self, api: ApiConfig):
        self._api = api
        self._actor = self._find()

    async def reserve(self, tokens: int) -> int:
        """Wait until a call of up to `tokens` tokens may begin; return its ticket."""
        return await self._ask("reserve", tokens)

    async def settle(self, ticket: int, tokens: int) -> None:
        """Record that the call of a ticket has ended and has taken `tokens` tokens."""
        await self._ask("settle", ticket, tokens)

    async def _ask(self, method: str, *arguments: int) -> Any:
        import ray.exceptions

        try:
            return await getattr(self._actor, method).remote(*arguments)
        except ray.exceptions.RayActorError:
            self._actor = self._find()
            return await getattr(self._actor, method).remote(*arguments)

    def _find(self) -> Any:
        import ray

        limited = json.dumps([self._api.base_url, self._api.model, self._api.api_key_env])
        name = f"limiter-{hashlib.blake2b(limited.encode(), digest_size=8).hexdigest()}"
        remote: Any = ray.remote(Limiter)
        actor = remote.options(
            name=name,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=_MAX_CALLERS,
        ).remote(self._api)
        actor.configure.remote(self._api)
        return actor
