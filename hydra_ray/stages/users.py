"""Users: raw files to buckets of users."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.adapt.adapter_examples import handcrafted_names
from hydra_ray.engine.parts import Counters
from hydra_ray.lamp.users import REJECTED, USERS, ingest, input_fingerprint
from hydra_ray.runs.root import bucket_key_name, forgotten_pseudonyms
from hydra_ray.runs.settings import settings_of
from hydra_ray.stages.definition import Duration, StageDefinition
from hydra_ray.stages.planning import Planning

if TYPE_CHECKING:
    from hydra_ray.stages.plan import Plan


def _settings(planning: Planning) -> dict[str, Any]:
    """Return the section with the name of the buckets' key, whom it leaves out where that is asked for, and whether
    there may be queries without candidates, which are refused elsewhere."""
    config = planning.config
    settings = settings_of(config.users, exclude={"leaves_out_forgotten"})
    settings["bucket_key"] = bucket_key_name(config)
    if config.drafts_candidates:
        settings["drafts_candidates"] = True
    forgotten = forgotten_pseudonyms(config.storage.root) if config.users.leaves_out_forgotten else ()
    users = {**settings, "forgotten": sorted(forgotten)} if forgotten else settings
    return {"task": planning.task, "users": users}


def _files(planning: Planning) -> Sequence[str]:
    """Return fingerprints of the files that are read; of an update the one it was made for, as files that were handed
    in may be gone once their users are read, and of a refreshed run that of the users whom it takes."""
    update, refresh = planning.config.update, planning.config.refresh
    if refresh is not None:
        return (refresh.taken,)
    return input_fingerprint(planning.config.lamp) if update is None else (update.handed_in,)


def read_users_of(plan: "Plan") -> Counters:
    """Read the users of a run's files, or of an update or a refreshed run."""
    features = handcrafted_names(plan.task, plan.config) if plan.config.has_scorers else ()
    return ingest(plan.config, plan.users, plan.known_users, plan.line, features)


STAGES = (
    StageDefinition(
        name="users",
        version=2,
        files=_files,
        # Users of the parent run come back with an update, and are not added otherwise.
        parent_inputs=(USERS,),
        earlier_inputs=(USERS,),
        settings=_settings,
        make=read_users_of,
        tables=lambda _: (USERS,),
        may_differ=True,
        file_kinds={rf"{REJECTED}/bucket-\d{{5}}\.parquet": "rejected"},
        workers="driver",
        duration=Duration(fixed=0.1, per_user=0.0005),
    ),
)
