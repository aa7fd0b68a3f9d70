"""The stages of a run and the places of their results: a pure function of the configuration and its files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import hydra_ray.stages
from hydra_ray.config import RunConfig, Task
from hydra_ray.config.section import is_plugin
from hydra_ray.errors import ConfigError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.lamp.tasks import described_task, task_of
from hydra_ray.lamp.users import USERS
from hydra_ray.models.model_records import RunModels, models_of
from hydra_ray.plugins import load_plugin, source_digest
from hydra_ray.runs.run_folder import (
    FinishedRun,
    read_config,
    read_parent,
    recorded_fingerprints,
    recorded_stages,
    run_folder_of,
)
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.updates import Line, line_of
from hydra_ray.stages.buckets import with_num_buckets
from hydra_ray.stages.definition import Asking, StageDefinition, definitions
from hydra_ray.stages.planning import Planning, completion_store, make_stage
from hydra_ray.stages.scorer import ScorerPlan, scorer_plan
from hydra_ray.storage import require_absolute
from hydra_ray.storage.locations import reach


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedPlugin:
    """Function of another package that a run uses. Key: (setting, name)."""

    setting: str
    name: str
    """Its `module:name`."""
    source: str
    """Hash of the source of its package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All stages of a run, in the order they run."""

    config: RunConfig
    """Configuration of the run, in which the models' names are those of what they hold now."""
    models: RunModels
    task: Task
    parent: FinishedRun | None
    """The finished run whose bases, priors, label model and gate this one uses; None where it fits its own."""
    line: Line | None = None
    """The runs whose users come back with an update, or are taken by a refreshed run; None for other runs."""
    plugins: tuple[UsedPlugin, ...] = ()
    """Functions of other packages that the run uses."""
    completions: CompletionStore
    """Everything that the generator has answered in any run under the same root."""
    planned: Mapping[str, Stage]
    """Every stage, by name, also those that are not made."""
    reused: frozenset[str] = frozenset()
    """Names of the stages that were complete when this process began to run the plan."""

    def stage(self, name: str) -> Stage:
        """Return the stage `name`."""
        return self.planned[name]

    def made(self, until: str | None = None) -> Iterator[tuple[StageDefinition, Stage]]:
        """Yield every stage that is made, with its definition, in order.

        Args:
            until: last of `hydra_ray.stages.STAGE_NAMES` to yield the stages of; all where not given.

        Raises:
            ConfigError: there is no stage `until`.
        """
        names = hydra_ray.stages.STAGE_NAMES
        if until is not None and until not in names:
            raise ConfigError(f"until is {until!r}, expected one of {', '.join(names)}")
        wanted = names if until is None else names[: names.index(until) + 1]
        for each in definitions():
            if each.module in wanted and each.is_made(self.config):
                yield each, self.planned[each.name]

    def asking(self) -> dict[str, Asking]:
        """Return how each stage that is made asks the generator, by name; the others are left out."""
        return {stage.name: definition.asks for definition, stage in self.made() if definition.asks is not None}

    def stages(self, until: str | None = None) -> Iterator[Stage]:
        """Yield every stage that is made, in order; see `made`."""
        return (stage for _, stage in self.made(until))

    # Properties are for the stages that other modules speak of; a new stage needs none.
    @property
    def users(self) -> Stage:
        """Users with their histories and queries."""
        return self.stage("users")

    @property
    def profiles(self) -> Stage:
        """Texts about users, for the baselines that prompt with them."""
        return self.stage("profiles")

    @property
    def probes(self) -> Stage:
        """Answers to one-record prompts."""
        return self.stage("probes")

    @property
    def reranker(self) -> ScorerPlan:
        """The scorer that chooses records."""
        return scorer_plan(self, "reranker")

    @property
    def drafts(self) -> Stage:
        """Answers to the prompts of chosen records."""
        return self.stage("drafts")

    @property
    def labeller(self) -> Stage:
        """The label model, which the adapter's features look at."""
        return self.stage("adapter.labeller")

    @property
    def own_model(self) -> Stage:
        """What all users teach of own heads that are fitted to all records."""
        return self.stage("adapter.own")

    @property
    def adapter(self) -> ScorerPlan:
        """The scorer that chooses answers."""
        return scorer_plan(self, "adapter")

    @property
    def gate(self) -> Stage:
        """Outcomes that the gate chooses by; made only in a run that is gated."""
        return self.stage("gate")

    @property
    def answers(self) -> Stage:
        """Answers of all systems."""
        return self.stage("answers")

    @property
    def report(self) -> Stage:
        """Metrics and the page."""
        return self.stage("report")

    @property
    def known_users(self) -> Stage | None:
        """The parent run's users, who come back only with an update; None where there is no parent."""
        return None if self.parent is None else self.parent.stages[self.users.name]

    @property
    def run_folder(self) -> str:
        """Location of the run's report, answers and state."""
        return run_folder_of(self.config.storage.root, self.config.run)

    def is_complete(self) -> bool:
        """Return whether every stage is complete."""
        return all(stage.is_complete() for stage in self.stages())


def plan_run(config: RunConfig) -> Plan:
    """Return the plan of a run; where it has a parent, it has only the buckets that hold users once these are read.

    Raises:
        ConfigError: storage.root is relative, the environment names another store, the task is unknown, a function of
            another package is not there, or the run differs from its parent.
        InputError: an input file is missing, or the parent run is.
        ModelError: a model cannot be found.
    """
    return _plan(config, {})


def _plan(config: RunConfig, recorded: Mapping[str, Stage]) -> Plan:
    require_absolute(config.storage.root, "storage.root")
    reach(config.storage)
    plugins = tuple(used_plugins(config))
    task = task_of(config.lamp)
    config = with_num_buckets(_with_task_of_plugin(config))
    parent = read_parent(config)
    line = line_of(config)
    _require_answerable(config, task)
    models = models_of(config)
    planning = Planning(
        given=config,
        config=models.pinned(config),
        task=task,
        models=models,
        parent=parent,
        line=line,
        recorded=recorded,
    )
    return Plan(
        config=planning.config,
        models=models,
        task=task,
        parent=parent,
        line=line,
        plugins=plugins,
        completions=completion_store(planning.config, models),
        planned=_planned(planning),
    )


def used_plugins(config: RunConfig) -> Iterator[UsedPlugin]:
    """Yield the functions of other packages that a run names, once each is imported.

    Raises:
        ConfigError: one of them is not there.
    """
    for setting, name in config.plugins:
        load_plugin(name, setting)
        yield UsedPlugin(setting=setting, name=name, source=source_digest(name, setting))


def _with_task_of_plugin(config: RunConfig) -> RunConfig:
    """Return a configuration whose task is described in full where a function of another package describes it, so that
    the run's results can be read without it."""
    if not isinstance(config.lamp.task, str) or not is_plugin(config.lamp.task):
        return config
    return config.model_copy(update={"lamp": config.lamp.model_copy(update={"task": described_task(config.lamp)})})


def _require_answerable(config: RunConfig, task: Task) -> None:
    """Raise an error if the run cannot answer its task.

    Raises:
        ConfigError: says what it needs.
    """
    if task.kind == "preference" and not config.lamp.users_files:
        raise ConfigError(
            f"the task {task.name} is of the kind preference, and LaMP's files hold none: give lamp.users_files "
            "with `chosen` and `rejected` in records (docs/preferences.md)"
        )
    if not config.has_generator and not task.has_labelled_records:
        raise ConfigError(
            f"generator.engine is none, and the task {task.name} has no records that show labels: expected a "
            "classification, rating or preference task with labelled histories, or a generator"
        )


def plan_recorded(run_folder: str) -> Plan:
    """Return the plan of the run in `run_folder`; of a finished one with the stages that it recorded, whatever versions
    stages have by now, and also where its input files are gone.

    Raises:
        HydraError: as `plan_run`, or no run was started there.
    """
    config = read_config(run_folder)
    return _plan(config, recorded_stages(run_folder, config) if recorded_fingerprints(run_folder) else {})


def _planned(planning: Planning) -> dict[str, Stage]:
    """Return the stages by name; a child run's consist of the buckets that hold users, once these are known."""
    planned: dict[str, Stage] = {}
    only_buckets = None
    for definition in definitions():
        stage = make_stage(definition, planning, planned, only_buckets)
        if planning.parent is not None and stage.name == USERS and stage.is_complete():
            only_buckets = tuple(stage.committed_buckets(USERS))
            stage = replace(stage, only_buckets=only_buckets)
        planned[stage.name] = stage
    return planned
