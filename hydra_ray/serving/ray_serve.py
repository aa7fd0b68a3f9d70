"""The service on Ray Serve: `import_path: hydra_ray.serving.ray_serve:application` of a Serve config file."""

from typing import cast

from ray import serve
from ray.serve import Application

from hydra_ray.serving.followed import FollowedScorer
from hydra_ray.serving.service import ServiceConfig, make_service, require_followed


@serve.deployment
@serve.ingress()
class Scorer:
    """One replica: a scorer of its own, which follows the run."""

    def __init__(self, config: ServiceConfig) -> None:
        """Load the scorer, so that a replica that cannot fails with the reason in its status."""
        self._config = config
        self._followed = FollowedScorer(config.scorer, config.run, config.pull_seconds)

    def __serve_build_asgi_app__(self) -> object:
        """Return the application that answers requests."""
        return make_service(self._followed, self._config)

    def check_health(self) -> None:
        """Raise where the replica is to be replaced."""
        require_followed(self._followed)


def application(config: ServiceConfig) -> Application:
    """Return the Serve application of the `args` of its config file."""
    return cast(serve.Deployment, Scorer).bind(config)
