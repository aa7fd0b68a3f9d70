"""Choice of the number of buckets where it is left to the run: `users.num_buckets: auto`."""

from hydra_ray.config import RunConfig
from hydra_ray.errors import HydraError, InputError
from hydra_ray.lamp.seen_users import SeenUsers, look_at_users, num_requests
from hydra_ray.lamp.tasks import task_of
from hydra_ray.runs.run_folder import has_config, read_config, run_folder_of

_PART_REQUESTS = 2000
"""Number of requests that keep a copy of the generator busy, and whose answers one worker holds."""
_PART_USERS = 500
"""Number of users whose features one worker holds."""
_PARTS_A_COPY = 2
"""Number of parts at least for each copy of the generator, one of which may wait while the other is answered."""


def with_num_buckets(config: RunConfig, seen: SeenUsers | None = None) -> RunConfig:
    """Return a configuration with a number of buckets where it has `auto`: that of its parent, or that with which the
    run was started before, or else one for its users.

    Args:
        seen: the first users of the run's files, where they were read already.

    Raises:
        InputError: the users' files cannot be read, or the parent run is missing.
    """
    if config.users.num_buckets != "auto":
        return config
    root = config.storage.root
    if config.taught_by is not None:
        number = read_config(run_folder_of(root, config.taught_by)).num_buckets
    elif has_config(folder := run_folder_of(root, config.run)):
        number = read_config(folder).num_buckets
    else:
        number = advised_number(config, _seen(config) if seen is None else seen)
    return config.model_copy(update={"users": config.users.model_copy(update={"num_buckets": number})})


def advised_number(config: RunConfig, seen: SeenUsers) -> int:
    """Return the power of two of buckets into which some users are best divided; it changes little where users do."""
    placement = config.placement
    copies = placement.generator_actors if config.has_generator else placement.encoder_actors
    requests = num_requests(config, seen) if config.has_generator else 0
    wanted = max(requests / _PART_REQUESTS, seen.num_users / _PART_USERS, _PARTS_A_COPY * copies)
    number = min(round(wanted), max(seen.num_users, 1))
    return 1 << (number - 1).bit_length()


def _seen(config: RunConfig) -> SeenUsers:
    try:
        return look_at_users(config, task_of(config.lamp))
    except HydraError:
        raise
    except OSError as error:
        raise InputError(f"users.num_buckets is auto, and the users cannot be read to choose it: {error}") from error
