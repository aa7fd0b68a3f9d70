"""Check that a run's users can be read."""

from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import HydraError
from hydra_ray.findings import Finding, unusable
from hydra_ray.lamp.seen_users import SeenUsers, look_at_users


def users_finding(config: RunConfig, task: Task) -> tuple[Finding, SeenUsers | None]:
    """Return a finding on whether the task's users can be read, and their statistics; None where they cannot."""
    try:
        seen = look_at_users(config, task)
    except (HydraError, OSError) as error:
        given = next(iter(config.lamp.users_files), "lamp.planted" if config.lamp.root is None else config.lamp.root)
        return unusable("users", given, error), None
    if config.lamp.planted is not None:
        return Finding(name="users", value=f"{seen.num_users}, made up"), seen
    about = "" if seen.is_whole else "about "
    value = f"{about}{seen.num_users:,}; the first {len(seen.ids)} fit the task {task.name}"
    rejected = f", {len(seen.rejected)} malformed ones are left out" if seen.rejected else ""
    return Finding(name="users", value=value + rejected), seen
