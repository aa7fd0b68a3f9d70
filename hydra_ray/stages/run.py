"""The path from raw files to a report: every stage in order.

A stage that is complete is skipped before anything of it is read, and Ray is started only by the first one that is not.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import hydra_ray.stages
from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.engine.batches_under_way import require_no_batches, tell_of_former_batches
from hydra_ray.engine.execute import Finish, OnComputed, complete_together, tell_nobody, telling
from hydra_ray.engine.generation import AskingStage, run_generation
from hydra_ray.engine.generator_actor import Loadable
from hydra_ray.engine.generator_pool import generators_kept, room_for
from hydra_ray.engine.parts import Counters
from hydra_ray.engine.ray_connection import cluster_address
from hydra_ray.errors import HydraError
from hydra_ray.extras import require_packages
from hydra_ray.generate.calls import UNCONSTRAINED
from hydra_ray.generate.credentials import require_credentials
from hydra_ray.generate.engines.vllm_settings import require_known_arguments
from hydra_ray.generate.failures import failures_text
from hydra_ray.runs.budget import committed_counters, require_room, require_within, spending_of
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.runs.logs import at_work
from hydra_ray.runs.resources import other_work
from hydra_ray.runs.run_folder import read_config, write_config
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.outline import read_outline, write_outline
from hydra_ray.stages.overlap import MadeStage, overlapping
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.report import publish
from hydra_ray.stages.tracking import tell_trackers
from hydra_ray.temporary import remove_leftovers

logger = logging.getLogger(__name__)


def personalize(config: RunConfig, until: str = "report", on_computed: OnComputed = tell_nobody) -> Plan:
    """Run every stage up to `until` that is not complete yet; a finished run does no work.

    Args:
        until: one of `hydra_ray.stages.STAGE_NAMES`.
        on_computed: told of each stage that this call, and no other, has computed.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    require_packages(config)
    remove_leftovers()
    plan = plan_run(config)
    next(plan.stages(until))  # an unknown stage is told before anything is written
    if any(definition.asks is not None and not stage.is_complete() for definition, stage in plan.made(until)):
        require_generator_here(config)
        if plan.task.is_closed and config.generator.is_constrained and not config.generator.can_constrain:
            logger.info("generator.is_constrained has no effect at this endpoint: %s", UNCONSTRAINED)
    # Two runs of one name would mix their reports.
    with (
        telling(on_computed),
        lease(run_lease(config.storage.root, config.run), f"run {config.run}"),
        at_work(run=config.run),
        generators_kept(),
    ):
        return _run_stages(plan, until)


def require_generator_here(config: RunConfig) -> None:
    """Check what this process can know of the generator before it is asked: vLLM's arguments where it is installed, and
    an endpoint's key and headers where the generator will have this process's variables, which is without a cluster.

    Raises:
        ConfigError: vLLM does not have an argument; or a variable is not set, or holds what no header can.
    """
    require_known_arguments(config.generator)
    api = config.generator.api
    if api is not None and cluster_address() is None:  # else the cluster's nodes have variables of their own
        require_credentials(api)


def _run_stages(plan: Plan, until: str) -> Plan:
    reused = frozenset(stage.name for stage in plan.stages() if stage.is_complete())
    if plan.parent is not None:
        _make(plan, [next(plan.made("users"))])
        plan = plan_run(plan.config)  # which buckets hold users is known now
    plan = replace(plan, reused=reused)
    _tell_of_former_batches(plan)
    if not plan.report.is_complete():
        storage.remove_folder(plan.run_folder)  # a report of another configuration under this run's name
    plan.models.record(plan.config.storage.root)  # before anything that is named after them
    write_config(plan.run_folder, plan.config)
    write_outline(plan)
    with overlapping(plan.config, list(plan.made(until)), lambda made: _make(plan, [made])) as overlap:
        for group in _made_together(plan, until):
            if any(definition.asks is not None and not stage.is_complete() for definition, stage in group):
                overlap.begin()
            if not overlap.has_made(group[0]):
                _make(plan, group)
    if until == hydra_ray.stages.STAGE_NAMES[-1]:
        publish(plan)
        tell_trackers(plan)
    return plan


def _tell_of_former_batches(plan: Plan) -> None:
    """Log which batches of the run's former settings would be lost."""
    with suppress(HydraError):  # no run yet, or one that another version started
        if read_config(plan.run_folder).generator.engine == "openai_batch":
            former = [each.stage for each in read_outline(plan.run_folder).stages]
            tell_of_former_batches(plan.config.storage.root, former, plan.stages())


def _made_together(plan: Plan, until: str) -> Iterator[Sequence[MadeStage]]:
    """Yield the stages in order: those alone that do not ask the generator, and those together that ask it one after
    the other and of which none reads another."""
    group: list[MadeStage] = []
    for definition, stage in plan.made(until):
        before = {each.name for each, _ in group}
        asks = definition.asks is not None and plan.config.generator.engine != "openai_batch"
        if group and not (asks and group[-1][0].asks is not None and before.isdisjoint(definition.inputs)):
            yield group
            group = []
        group.append((definition, stage))
    if group:
        yield group


def _make(plan: Plan, group: Sequence[MadeStage]) -> None:
    """Make what is not complete of stages that are made together."""
    definitions, placement = {stage.name: definition for definition, stage in group}, plan.config.placement

    def make(missing: Sequence[Stage], finish: Finish) -> None:
        asked: list[AskingStage] = []
        for stage in missing:
            definition = definitions[stage.name]
            if definition.asks is None:
                assert definition.make is not None, f"the stage {stage.name} declares neither `make` nor `asks`"
                with room_for(other_work(definition.workers, placement)):
                    finish(stage, definition.make(plan))
            else:
                with room_for(
                    other_work("encoders", plan.config.placement) if definition.encoders(plan.config) else ()
                ):
                    definition.asks.prepare(plan)
                asked.append(AskingStage(stage=stage, tables=definition.tables(plan), work=definition.asks.work(plan)))
        if asked:
            _ask(plan, asked, _warning_of_failures(finish))

    complete_together([stage for _, stage in group], make)


def _warning_of_failures(finish: Finish) -> Finish:
    """Return a function that also logs how many of a finished stage's answers failed."""

    def warn_and_finish(stage: Stage, counters: Counters) -> None:
        if failed := failures_text(counters):
            logger.warning("%s: %s; `hydra-ray retry RUN` asks again what may be repaired", stage.name, failed)
        finish(stage, counters)

    return warn_and_finish


def _ask(plan: Plan, stages: Sequence[AskingStage], finish: Finish) -> None:
    """Make stages that ask the generator, within the run's budget."""
    config, before = plan.config, _committed(plan)

    def is_anything_left() -> bool:
        return any(each.stage.missing_buckets(*each.tables) for each in stages)

    def go_on(counters: Counters) -> None:
        require_within(config, spending_of([*before, counters], config), is_anything_left)

    def may_spend(counters: Counters) -> None:
        require_room(config, spending_of(_committed(plan), config), spending_of([counters], config))

    generator, placement = config.generator, config.placement
    if generator.engine == "openai_batch":
        from hydra_ray.engine.batch_generation import run_batched_generation  # imports the endpoint's client

        for each in stages:
            finish(each.stage, run_batched_generation(each, plan.completions, generator, placement, go_on, may_spend))
        return
    for each in stages:
        require_no_batches(each.stage, plan.completions)
    loadable = Loadable(task=plan.task, generator=generator, placement=placement)
    run_generation(stages, plan.completions, loadable, go_on, finish)


def _committed(plan: Plan) -> list[Mapping[str, float]]:
    """Return the counters of everything that is committed of the stages that ask the generator."""
    return committed_counters((own, each.tables(plan)[0]) for each, own in plan.made() if each.asks is not None)
