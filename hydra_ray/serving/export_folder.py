"""Layout of an exported folder.

README.md                     the model card
export.json                   the exported run, and every setting that scoring depends on
reranker/, adapter/           a Hugging Face folder each: the base, with its projection, and its own card
encoder/, retriever/          the frozen encoders of the handcrafted features and, if needed, of the retriever
stages/reranker/heads/...     the head stores and head priors (`population-0`), as under a root
stages/adapter/labeller/...   the label model, where histories have labels
stages/users/...              the users' histories, without any query
"""

from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RunConfig, check_config
from hydra_ray.errors import InputError
from hydra_ray.lamp.tasks import task_of
from hydra_ray.runs.stage import Stage, bucket_of

CARD = "README.md"
DESCRIPTION = "export.json"
ENCODER = "encoder"
RETRIEVER = "retriever"
SCORERS = ("reranker", "adapter")
FORMAT = 1
"""Version of the folder's format."""
FOLD = 0
"""Fold of a cross-fitted run whose heads and bases are exported, as for users who are added later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Exported folder with its description."""

    folder: str
    config: RunConfig
    bucket_key: str
    """Key of the hash that assigns users to buckets."""
    fingerprints: dict[str, str]
    """Fingerprint of each stage."""

    def stage(self, name: str) -> Stage:
        """Return a stage as under a root."""
        return Stage(
            name=name,
            fingerprint=self.fingerprints[name],
            root=self.folder,
            num_buckets=self.config.users.num_buckets,
        )

    def path(self, name: str) -> str:
        """Return the location of an entry directly in the folder."""
        return storage.join(self.folder, name)

    def part_of(self, stage: Stage, table: str, user_id: str) -> str | None:
        """Return the location of the part that a user would be in; None where no user of that bucket was exported."""
        location = stage.part(table, bucket_of(user_id, stage.num_buckets, self.bucket_key))
        return location if storage.exists(location) else None

    def describe(self) -> dict[str, Any]:
        """Return the content of export.json, without locations, placement and budget of the run."""
        settings = self.config.model_dump(mode="json", exclude={"storage", "placement", "budget"})
        settings["lamp"] = {"task": task_of(self.config.lamp).model_dump(mode="json"), "users_files": ["stages/users"]}
        settings["adapter"]["base"]["encoder"] = ENCODER
        settings["retrieve"]["encoder"] = RETRIEVER if self.config.retrieve.needs_encoder else None
        return {
            "format": FORMAT,
            "config": settings,
            "bucket_key": self.bucket_key,
            "fingerprints": self.fingerprints,
        }


def read_export(folder: str) -> Exported:
    """Read the description of an exported folder.

    Raises:
        InputError: it is no exported folder, or one of another version.
    """
    location = storage.join(folder, DESCRIPTION)
    if not storage.exists(location):
        raise InputError(
            f"no export at {folder}: there is no {DESCRIPTION}. Make one with `hydra-ray export RUN FOLDER`."
        )
    description = storage.read_json(location)
    if description.get("format") != FORMAT:
        raise InputError(
            f"{location} is of format {description.get('format')}, expected {FORMAT}: export the run again with this "
            "version of hydra_ray."
        )
    return Exported(
        folder=folder,
        config=check_config({**description["config"], "storage": {"root": folder}}, source=location),
        bucket_key=description["bucket_key"],
        fingerprints=description["fingerprints"],
    )
