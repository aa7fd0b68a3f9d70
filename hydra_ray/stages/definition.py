"""Declarations of stages: everything that planning, running, forecasting and cleaning up need to know of one.

Each module that `hydra_ray.stages.STAGE_NAMES` lists has a tuple `STAGES` of definitions. Every loop over
stages is over these, so that a new stage is a new module and an entry of that list.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import hydra_ray.stages
from hydra_ray.config import RunConfig
from hydra_ray.engine.generation import GenerationWork
from hydra_ray.engine.parts import Counters
from hydra_ray.rows import Asked, User
from hydra_ray.runs.resources import Workers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hydra_ray.stages.plan import Plan
    from hydra_ray.stages.planning import Planning

FileKind = Literal["learned", "page", "predictions", "rejected", "report", "table", "unfinished"]
"""Kinds of files that are no parts of a stage's tables; see `hydra_ray.forget`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Users of one bucket whose requests are made before the run, to forecast what a run will ask."""

    plan: "Plan"
    bucket: int
    users: Sequence[User]
    tokenizer: "PreTrainedTokenizerBase"
    expected_tokens: Callable[[str, int], float]
    """Expected length of a generation, by asking stage and length limit."""
    is_blind: bool
    """Whether the forecast must not look at what the run has computed already."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Intermediate results that several stages need, by a name of theirs."""


def _nothing(_plan: "Plan") -> None:
    """Prepare nothing."""


def _never(_plan: "Plan", _is_blind: bool) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Requests of a stage to the generator."""

    work: Callable[["Plan"], GenerationWork]
    """Returns the CPU steps before and after the generator."""
    preview: Callable[[Preview], Iterable[Asked]]
    """Makes the stage's requests as `work` will; what is not known yet is guessed."""
    prepare: Callable[["Plan"], None] = _nothing
    """Does what has to be done by workers that hold an encoder before requests can be made."""
    is_guessed: Callable[["Plan", bool], bool] = _never
    """Takes the plan and `is_blind`; returns whether previews of the run contain guesses."""
    generations: Literal["answers", "text"] = "text"
    """Kind of what is generated: answers to the task's queries, as long in all stages, or text of its own length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds that a stage takes beside the generator, as measured on two cores."""

    fixed: float
    per_user: float
    most_users: int | None = None
    """Users that are looked at, where the stage samples them."""
    epoch: tuple[float, float] | None = None
    """Fixed and per-user seconds of an epoch, where the stage trains a base for each fold."""


def _always(_: RunConfig) -> bool:
    return True


def with_scorers(config: RunConfig) -> bool:
    """Return whether a run has a reranker and an adapter, without which no record is chosen for a prompt and no draft
    for an answer."""
    return config.has_scorers


def _no_tables(_: "Plan") -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageDefinition:
    """One stage. Key: name."""

    name: str
    """Name of its module, alone or followed by a dot and a name of its own."""
    version: int
    """Version of the result: raised when the code changes its meaning, so that the stage is computed again."""
    like_versions: tuple[int, ...] = ()
    """Earlier versions whose results a run may have learned from when users are added to it: they mean the same, apart
    from errors that are corrected."""
    inputs: tuple[str, ...] = ()
    """Names of the stages whose results it reads; the order enters the fingerprint."""
    added_inputs: tuple[str, ...] = ()
    """Names of further stages whose results it reads where a run makes them; they enter its fingerprint only then."""
    settings: Callable[["Planning"], Mapping[str, Any]] = lambda _: {}
    """Everything else that the result depends on: pydantic models or plain JSON values, which enter the fingerprint."""
    files: Callable[["Planning"], Sequence[str]] = lambda _: ()
    """Fingerprints of raw files that it reads."""

    make: Callable[["Plan"], Counters] | None = None
    """Does what is left of the work and returns the counters of the whole stage; None where `asks` says how."""
    asks: Asking | None = None
    tables: Callable[["Plan"], tuple[str, ...]] = _no_tables
    """Tables of which each bucket must have a part; parts of the first one carry the counters."""
    is_made: Callable[[RunConfig], bool] = _always
    """Whether a run makes it. What is not made still enters the fingerprints of what would read it."""

    is_inherited: bool = False
    """Whether it learns from all users, so that a run with a parent uses the parent's in its place."""
    parent_inputs: tuple[str, ...] = ()
    """Stages of the parent run that it reads besides `inputs`, where there is a parent that made them."""
    earlier_inputs: tuple[str, ...] = ()
    """Stages of the runs directly before an update that it reads."""
    child_inputs: tuple[str, ...] = ()
    """Stages of the same run that a child run's stage reads besides `inputs`. They are those that an input would have
    read, had it not been inherited from the parent run."""
    may_differ: bool = False
    """Whether its settings may differ from those of the parent run."""

    file_kinds: Mapping[str, FileKind] = field(default_factory=dict)
    """Kinds of the files in its folder that are neither parts of tables of rows with a `user_id` nor the manifest, by a
    regular expression of their path in it."""
    learns_from: Literal["all users", "training users"] | None = None
    """Users who have a part in its files of the kind "learned"."""

    workers: Workers = "steps"
    """Place of its work; for a stage that asks, of the work beside the generator."""
    encoders: Callable[[RunConfig], Sequence[str]] = lambda _: ()
    """Models that its workers load, besides the tokenizer of a generator that it asks."""
    duration: Duration = Duration(fixed=25, per_user=0.05)

    @property
    def module(self) -> str:
        """Name of its module, as `hydra_ray.stages.STAGE_NAMES` has it."""
        return self.name.partition(".")[0]


def definitions() -> tuple[StageDefinition, ...]:
    """Return the definitions of all stages, in the order they run."""
    return _definitions(hydra_ray.stages.STAGE_NAMES)


def asking_definitions() -> tuple[StageDefinition, ...]:
    """Return the definitions of the stages that ask the generator, in the order they run."""
    return tuple(each for each in definitions() if each.asks is not None)


@lru_cache
def _definitions(modules: tuple[str, ...]) -> tuple[StageDefinition, ...]:
    # Imported when called: modules of stages import the plan, which imports this one.
    found = [each for name in modules for each in import_module(f"hydra_ray.stages.{name}").STAGES]
    known: set[str] = set()
    for each in found:
        missing = {*each.inputs, *each.added_inputs, *each.child_inputs} - known
        if missing or each.name in known:
            raise ValueError(f"stage {each.name} is listed twice or before its inputs {sorted(missing)}")
        known.add(each.name)
    return tuple(found)
