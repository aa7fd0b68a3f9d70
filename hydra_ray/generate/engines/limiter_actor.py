"""One limiter for the whole cluster: a named Ray actor, which all copies of the generator of all runs ask for turns."""

import hashlib
import json
from typing import Any

from hydra_ray.config import ApiConfig
from hydra_ray.generate.rate_limits import Limiter, Turns

_NAMESPACE = "hydra_ray"
_MAX_CALLERS = 100_000
"""Callers who wait in the actor at the same time."""


def open_limiter(api: ApiConfig) -> Turns:
    """Return the limiter of an endpoint: the cluster's, or one of this process where it belongs to no cluster."""
    import ray

    return ClusterLimiter(api) if ray.is_initialized() else Limiter(api)


class ClusterLimiter:
    """The turns of all callers of a model at an endpoint with one key, in a Ray cluster.

    The actor outlives the run: runs that begin later, or at the same time, share it. The limits of the run that came
    last hold. It needs no CPU. Where it dies, another one begins anew, knowing nothing of the last minute.
    """

    def __init__(self, api: ApiConfig):
        self._api = api
        self._actor = self._find()

    async def reserve(self, tokens: int) -> int:
        """Wait until a call that may take so many tokens may begin; returns the number of its ticket."""
        return await self._ask("reserve", tokens)

    async def settle(self, ticket: int, tokens: int) -> None:
        """The call of a ticket has ended, and has taken so many tokens."""
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
