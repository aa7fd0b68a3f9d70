"""Users: raw files to buckets of users."""

from typing import Any

from hydra_ray.lamp.users import REJECTED, USERS, ingest, input_fingerprint
from hydra_ray.runs.root import bucket_key_name, forgotten_pseudonyms
from hydra_ray.runs.settings import settings_of
from hydra_ray.stages.definition import Duration, StageDefinition
from hydra_ray.stages.planning import Planning


def _settings(planning: Planning) -> dict[str, Any]:
    """Return the section with the name of the buckets' key, and whom it leaves out where that is asked for."""
    config = planning.config
    settings = settings_of(config.users, exclude={"leaves_out_forgotten"})
    settings["bucket_key"] = bucket_key_name(config)
    forgotten = forgotten_pseudonyms(config.storage.root) if config.users.leaves_out_forgotten else ()
    users = {**settings, "forgotten": sorted(forgotten)} if forgotten else settings
    return {"task": planning.task, "users": users}


STAGES = (
    StageDefinition(
        name="users",
        version=2,
        files=lambda planning: input_fingerprint(planning.config.lamp),
        # Nobody who is a user of the parent run is added.
        parent_inputs=("users",),
        settings=_settings,
        make=lambda plan: ingest(plan.config, plan.users, plan.known_users),
        tables=lambda _: (USERS,),
        may_differ=True,
        file_kinds={rf"{REJECTED}/bucket-\d{{5}}\.parquet": "rejected"},
        workers="driver",
        duration=Duration(fixed=0.1, per_user=0.0005),
    ),
)
