"""The path from raw files to a report: every stage in order.

A stage that is complete is skipped before anything of it is read, and Ray is started only by the first one that is not.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import hydra_ray.stages
from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.engine.batch_generation import require_no_batches, run_batched_generation, tell_of_former_batches
from hydra_ray.engine.execute import OnComputed, complete, tell_nobody, telling
from hydra_ray.engine.generation import GenerationWork, run_generation
from hydra_ray.engine.parts import Counters
from hydra_ray.engine.ray_connection import cluster_address
from hydra_ray.errors import HydraError
from hydra_ray.extras import require_packages
from hydra_ray.generate.calls import UNCONSTRAINED
from hydra_ray.generate.credentials import require_credentials
from hydra_ray.generate.failures import failures_text
from hydra_ray.runs.budget import committed_counters, require_room, require_within, spending_of
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.runs.logs import at_work
from hydra_ray.runs.run_folder import read_config, write_config
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.definition import StageDefinition
from hydra_ray.stages.outline import read_outline, write_outline
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.report import publish
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
        require_credentials_here(config)
        if plan.task.is_closed and config.generator.is_constrained and not config.generator.can_constrain:
            logger.info("generator.is_constrained has no effect at this endpoint: %s", UNCONSTRAINED)
    # Two runs of one name would mix their reports.
    with (
        telling(on_computed),
        lease(run_lease(config.storage.root, config.run), f"run {config.run}"),
        at_work(run=config.run),
    ):
        return _run_stages(plan, until)


def require_credentials_here(config: RunConfig) -> None:
    """Check an endpoint's key and headers where the generator will have this process's variables: without a cluster.

    Raises:
        ConfigError: a variable is not set, or holds what no header can.
    """
    api = config.generator.api
    if api is not None and cluster_address() is None:  # else the cluster's nodes have variables of their own
        require_credentials(api)


def _run_stages(plan: Plan, until: str) -> Plan:
    reused = frozenset(stage.name for stage in plan.stages() if stage.is_complete())
    if plan.parent is not None:
        definition, users = next(plan.made("users"))
        complete(users, partial(_make, plan, definition, users))
        plan = plan_run(plan.config)  # which buckets hold users is known now
    plan = replace(plan, reused=reused)
    _tell_of_former_batches(plan)
    if not plan.report.is_complete():
        storage.remove_folder(plan.run_folder)  # a report of another configuration under this run's name
    plan.models.record(plan.config.storage.root)  # before anything that is named after them
    write_config(plan.run_folder, plan.config)
    write_outline(plan)
    for definition, stage in plan.made(until):
        complete(stage, partial(_make, plan, definition, stage))
    if until == hydra_ray.stages.STAGE_NAMES[-1]:
        publish(plan)
    return plan


def _tell_of_former_batches(plan: Plan) -> None:
    """Log which batches of the run's former settings would be lost."""
    with suppress(HydraError):  # no run yet, or one that another version started
        if read_config(plan.run_folder).generator.engine == "openai_batch":
            former = [each.stage for each in read_outline(plan.run_folder).stages]
            tell_of_former_batches(plan.config.storage.root, former, plan.stages())


def _make(plan: Plan, definition: StageDefinition, stage: Stage) -> Counters:
    """Do what is left of a stage's work."""
    if definition.asks is not None:
        definition.asks.prepare(plan)
        counters = _ask(plan, definition.asks.work(plan), stage, definition.tables(plan))
        if failed := failures_text(counters):
            logger.warning("%s: %s; `hydra-ray retry RUN` asks again what may be repaired", stage.name, failed)
        return counters
    assert definition.make is not None, f"the stage {stage.name} declares neither `make` nor `asks`"
    return definition.make(plan)


def _ask(plan: Plan, work: GenerationWork, stage: Stage, tables: Sequence[str]) -> Counters:
    """Make a stage that asks the generator, within the run's budget."""
    config = plan.config
    before = _committed(plan)

    def go_on(counters: Counters) -> None:
        require_within(config, spending_of([*before, counters], config), lambda: bool(stage.missing_buckets(*tables)))

    def may_spend(counters: Counters) -> None:
        require_room(config, spending_of(_committed(plan), config), spending_of([counters], config))

    generator, placement = config.generator, config.placement
    if generator.engine == "openai_batch":
        return run_batched_generation(stage, tables, work, plan.completions, generator, placement, go_on, may_spend)
    require_no_batches(stage, plan.completions)
    return run_generation(stage, tables, work, plan.completions, plan.task, generator, placement, go_on)


def _committed(plan: Plan) -> list[Mapping[str, float]]:
    """Return the counters of everything that is committed of the stages that ask the generator."""
    return committed_counters((own, each.tables(plan)[0]) for each, own in plan.made() if each.asks is not None)
