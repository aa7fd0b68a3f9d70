"""Where everything is in an exported folder.

README.md                     the model card
export.json                   what was exported, and every setting that scoring depends on
reranker/, adapter/           a Hugging Face folder each: the base, with its projection, and its own card
encoder/, retriever/          the frozen encoders that plain features, and perhaps the retriever, compare texts by
stages/reranker/heads/...     the head stores and what training users taught (populations), as under a root
stages/adapter/labeller/...   what labels texts, where histories have labels
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
"""Raised when the folder changes."""
FOLD = 0
"""Of a cross-fitted run, whose heads and bases are exported, as for users who come later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported folder and what it says of itself."""

    folder: str
    config: RunConfig
    bucket_key: str
    """Key of the hash that says in which bucket a user is."""
    fingerprints: dict[str, str]
    """By stage."""

    def stage(self, name: str) -> Stage:
        """A stage as under a root."""
        return Stage(
            name=name,
            fingerprint=self.fingerprints[name],
            root=self.folder,
            num_buckets=self.config.users.num_buckets,
        )

    def path(self, name: str) -> str:
        """Location of something directly in the folder."""
        return storage.join(self.folder, name)

    def part_of(self, stage: Stage, table: str, user_id: str) -> str | None:
        """Location of the part that a user would be in; None where nobody of that bucket was exported."""
        location = stage.part(table, bucket_of(user_id, stage.num_buckets, self.bucket_key))
        return location if storage.exists(location) else None

    def describe(self) -> dict[str, Any]:
        """For export.json; where the run and its input were, and how it was placed, concerns nobody else."""
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
    """What is in an exported folder.

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
