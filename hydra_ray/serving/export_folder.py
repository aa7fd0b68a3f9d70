"""Layout of an exported folder.

README.md                     the model card
DATA.md                       the card of the users' histories
export.json                   the exported run, every setting that scoring depends on, and the digests of all files
reranker/, adapter/           a Hugging Face folder each: the base, with its projection, and its own card; only with a
                              generator, as are the stages of both scorers' heads
encoder/, retriever/          the frozen encoders of the handcrafted features and, if needed, of the retriever
generator/                    the generator's tokenizer and chat template, with which prompts are made
stages/reranker/heads/...     the head stores and head priors (`population-0`), as under a root
stages/adapter/labeller/...   the label model, where histories have labels
stages/adapter/own/...        what all users teach of own heads fitted to all records, in closed tasks
stages/adapter/codes/...      the store of these heads
stages/users/...              the users' histories, without any query

Each exported stage has a manifest that lists the digests of its files; export.json lists those of the manifests and of
everything else.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.adapt.gate import Gate
from hydra_ray.config import RunConfig, check_config
from hydra_ray.errors import InputError
from hydra_ray.lamp.quality import METRIC
from hydra_ray.lamp.tasks import task_of
from hydra_ray.plugins import load_plugin, source_digest
from hydra_ray.retrieve.methods import METHOD
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.storage.listing_updates import require_files
from hydra_ray.storage.listings import FILES, MANIFEST, is_listed, read_listing

CARD = "README.md"
DATA_CARD = "DATA.md"
DESCRIPTION = "export.json"
ENCODER = "encoder"
RETRIEVER = "retriever"
GENERATOR = "generator"
SCORERS = ("reranker", "adapter")
FORMAT = 1
"""Version of the folder's format."""
FOLD = 0
"""Fold of a cross-fitted run whose heads and bases are exported, as for users who are added later."""

_SCORING = (METRIC, METHOD, "reranker.plain_features", "adapter.plain_features")
"""Settings whose functions scoring calls, where they are of another package."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Exported folder with its description."""

    folder: str
    config: RunConfig
    bucket_key: str
    """Key of the hash that assigns users to buckets."""
    fingerprints: dict[str, str]
    """Fingerprint of each stage."""
    gate: Gate | None
    """Which system answers, and why; None where own heads answer without a gate."""
    run_folder: str | None = None
    """Folder of the exported run, where its updates are found; None where an earlier version made the export."""
    updates: tuple[str, ...] = ()
    """Names of the updates that the export holds."""
    has_prompts: bool = True
    """Whether there is what prompts and answers are made by: an earlier version exported neither gate nor tokenizer."""

    def stage(self, name: str) -> Stage:
        """Return a stage as under a root."""
        return Stage(
            name=name,
            fingerprint=self.fingerprints[name],
            root=self.folder,
            num_buckets=self.config.num_buckets,
        )

    def path(self, name: str) -> str:
        """Return the location of an entry directly in the folder."""
        return storage.join(self.folder, name)

    def part_of(self, stage: Stage, table: str, user_id: str) -> str | None:
        """Return the location of the part that a user would be in; None where no user of that bucket was exported."""
        location = stage.part(table, bucket_of(user_id, stage.num_buckets, self.bucket_key))
        is_exported = is_listed(location)
        return location if (storage.exists(location) if is_exported is None else is_exported) else None

    def files_to_list(self, paths: Sequence[str]) -> list[str]:
        """Return those of all files of the folder that export.json lists, and no manifest does."""
        return [path for path in paths if path != DESCRIPTION and not _is_in_stage(path)]

    @property
    def scoring_plugins(self) -> list[tuple[str, str]]:
        """Setting and name of each function of another package that scoring calls."""
        return [(setting, name) for setting, name in self.config.plugins if setting in _SCORING]

    def describe(self) -> dict[str, Any]:
        """Return the content of export.json, without placement and budget of the run, and without locations but the
        run's own."""
        settings = self.config.model_dump(mode="json", exclude={"storage", "placement", "budget"})
        settings["lamp"] = {
            "task": task_of(self.config.lamp).model_dump(mode="json"),
            "metric": self.config.lamp.metric,
            "users_files": ["stages/users"],
        }
        settings["adapter"]["base"]["encoder"] = ENCODER
        settings["retrieve"]["encoder"] = RETRIEVER if self.config.retrieve.needs_encoder else None
        if has_tokenizer(self.config):
            settings["generator"]["model"] = GENERATOR
        return {
            "format": FORMAT,
            "config": settings,
            "bucket_key": self.bucket_key,
            "fingerprints": self.fingerprints,
            "plugins": [[setting, name, source_digest(name, setting)] for setting, name in self.scoring_plugins],
            _GATE: None if self.gate is None else asdict(self.gate),
            "run_folder": self.run_folder,
            "updates": list(self.updates),
        }


def has_tokenizer(config: RunConfig) -> bool:
    """Return whether prompts that the export makes are fitted to the generator's context by a tokenizer of files."""
    return config.has_scorers and config.generator.engine != "fake"


def read_export(folder: str) -> Exported:
    """Read the description of an exported folder.

    Raises:
        InputError: it is no exported folder, or one of another version, or made with another source of a plug-in.
        ConfigError: a plug-in is not there.
    """
    location = storage.join(folder, DESCRIPTION)
    if not storage.exists(location):
        raise InputError(
            f"no export at {folder}: there is no {DESCRIPTION}. Make one with `hydra-ray export RUN FOLDER`."
        )
    description = storage.read_json(location, {"format": int}, _ANEW)
    if description["format"] != FORMAT:
        raise InputError(
            f"{location} is of format {description.get('format')}, expected {FORMAT}: export the run again with this "
            "version of hydra_ray."
        )
    description = storage.read_json(location, _SHAPE, _ANEW)
    _require_whole(folder, description)
    settings = description["config"]
    # An export from before own heads were fitted to all records has none.
    settings["adapter"] = {"has_own_heads": False, **settings["adapter"]}
    _require_plugins(folder, description.get("plugins", []))
    return Exported(
        folder=folder,
        config=check_config({**settings, "storage": {"root": folder}}, source=location),
        bucket_key=description["bucket_key"],
        fingerprints=description["fingerprints"],
        gate=Gate(**description[_GATE]) if description.get(_GATE) else None,
        run_folder=description.get("run_folder"),
        updates=tuple(description.get("updates", ())),
        has_prompts=_GATE in description,
    )


_GATE = "gate"


def _require_plugins(folder: str, plugins: Sequence[Sequence[str]]) -> None:
    """Check that the functions of other packages that scoring calls are those that the heads were fitted with.

    Raises:
        ConfigError: one is not there.
        InputError: the source of one is another.
    """
    for setting, name, source in plugins:
        load_plugin(name, setting)
        if source_digest(name, setting) != source:
            raise InputError(
                f"the export {folder} was made with another source of {name} ({setting}): scores would not be those of "
                f"the run. Install that source, or run the configuration again and export it anew."
            )


_SHAPE = {"config": dict, "bucket_key": str, "fingerprints": dict}
_ANEW = "Export the run again, to a new folder."


def _require_whole(folder: str, description: Mapping[str, Any]) -> None:
    """Check that the folder holds the files that were exported, and no other's: of tables the footers, whose row groups
    are checked when they are read.

    Raises:
        DamagedError: a file is missing, damaged or of another export.
    """
    if FILES not in description:
        _log.info("%s was exported by an earlier version, which recorded no digests: it is read unchecked", folder)
        return
    what = f"the export {folder}"
    require_files(folder, description[FILES], what, _ANEW)
    for path in description[FILES]:
        if path.startswith("stages/") and path.endswith(f"/{MANIFEST}"):
            stage_folder = storage.join(folder, path.removesuffix(f"/{MANIFEST}"))
            digests = read_listing(storage.join(folder, path)) or {}
            require_files(stage_folder, digests, f"{what} ({stage_folder})", _ANEW)


def _is_in_stage(path: str) -> bool:
    return path.startswith("stages/") and not path.endswith(f"/{MANIFEST}")
