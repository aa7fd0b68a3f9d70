"""The path from raw files to a report: the one module that wires stages to engines.

`personalize` is the whole path on one screen. A stage that is complete is skipped before anything of it is read, and
Ray is started only by the first one that is not.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from statistics import fmean

from hydra_ray import storage
from hydra_ray.adapt.gate import Gate, fit_gate
from hydra_ray.config import STAGE_NAMES, PlacementConfig, RunConfig
from hydra_ray.engine.ray_data import (
    Counters,
    GenerationWork,
    run_actor_parts,
    run_generation,
    run_parts,
    run_task,
    start_ray,
)
from hydra_ray.engine.telemetry import stage_ended
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.evaluate.report import FeatureWeight, StageCost
from hydra_ray.extras import require_packages
from hydra_ray.generate.failures import ERRORS
from hydra_ray.lamp.predictions import official_predictions
from hydra_ray.lamp.users import ingest
from hydra_ray.runs.budget import committed_counters, require_within, spending_of
from hydra_ray.runs.lease import claim, lease, run_lease
from hydra_ray.runs.logs import at_work
from hydra_ray.runs.run_folder import record_stages
from hydra_ray.runs.signals import require_not_stopped
from hydra_ray.runs.stage import Stage
from hydra_ray.runs.user_answers import answered_users
from hydra_ray.scorer.base.spec import base_name_of
from hydra_ray.scorer.heads.store import prior_folder
from hydra_ray.scorer.linear.prior import feature_weights, read_prior
from hydra_ray.stages.addition import addition_summary
from hydra_ray.stages.explained import explain_examples
from hydra_ray.stages.outline import write_outline
from hydra_ray.stages.parts import (
    AdapterExamplesPart,
    AnswersPart,
    DraftsPart,
    GatePart,
    ProbesPart,
    ProfilesPart,
    RerankerExamplesPart,
    make_labeller,
    read_outcomes,
)
from hydra_ray.stages.plan import Plan, ScorerPlan, plan_run

logger = logging.getLogger(__name__)


def _tell_nobody(_: Stage) -> None:
    pass


_on_computed: ContextVar[Callable[[Stage], None]] = ContextVar("on_computed", default=_tell_nobody)


def personalize(config: RunConfig, until: str = "report", on_computed: Callable[[Stage], None] = _tell_nobody) -> Plan:
    """Run every stage up to `until` that is not complete yet; a finished run does no work.

    Args:
        on_computed: told of each stage that this call, and no other, has computed.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    _on_computed.set(on_computed)
    require_packages(config)
    plan = plan_run(config)
    # Two runs of one name would mix their reports.
    with lease(run_lease(config.storage.root, config.run), f"run {config.run}"), at_work(run=config.run):
        return _run_stages(plan, until)


def _run_stages(plan: Plan, until: str) -> Plan:
    config = plan.config
    reused = {stage.name for stage in plan.stages() if stage.is_complete()}
    if plan.parent is not None:
        users(plan)
        plan = plan_run(config)  # which buckets hold users is known now
    if not plan.report.is_complete():
        storage.remove_folder(plan.run_folder)  # a report of another configuration under this run's name
    plan.models.record(config.storage.root)  # before anything that is named after them
    storage.write_json(storage.join(plan.run_folder, "config.json"), config.model_dump(mode="json"))
    write_outline(plan)
    steps: dict[str, Callable[[], None]] = {
        "users": lambda: users(plan),
        "profiles": lambda: profiles(plan),
        "probes": lambda: probes(plan),
        "reranker": lambda: reranker(plan),
        "drafts": lambda: drafts(plan),
        "adapter": lambda: adapter(plan),
        "gate": lambda: gate(plan),
        "answers": lambda: answers(plan),
        "report": lambda: report(plan, reused),
    }
    for name in STAGE_NAMES[: STAGE_NAMES.index(until) + 1]:
        steps[name]()
    return plan


def users(plan: Plan) -> None:
    """Stage 1: raw files to bucketed users."""
    _complete(plan.users, lambda: ingest(plan.config, plan.users, plan.known_users))


def profiles(plan: Plan) -> None:
    """What the generator writes about each evaluated user; for the baselines that prompt with it."""
    _generate(plan, plan.profiles, ProfilesPart(plan), "profiles", ERRORS)


def probes(plan: Plan) -> None:
    """Stage 2: one-record prompts, labelled by whether they helped."""
    _generate(plan, plan.probes, ProbesPart(plan), "probes", ERRORS, "retrieved")


def reranker(plan: Plan) -> None:
    """Stage 3: the scorer that chooses records."""
    examples = plan.reranker.examples
    placement = plan.config.placement
    _complete(examples, lambda: run_parts(examples, "examples", RerankerExamplesPart(plan), placement))
    scorer(plan.reranker, placement)


def adapter(plan: Plan) -> None:
    """Stage 5: the scorer that chooses answers."""
    examples, placement = plan.adapter.examples, plan.config.placement
    _complete(plan.labeller, lambda: run_task(make_labeller, plan, placement))
    _complete(
        examples,
        lambda: run_actor_parts(examples, ["examples"], AdapterExamplesPart, {"plan": plan}, placement),
    )
    scorer(plan.adapter, placement)


def scorer(plan: ScorerPlan, placement: PlacementConfig) -> None:
    """Base (Ray Train and DeepSpeed), frozen features, heads (Ray Tune)."""
    _complete(plan.base, lambda: _train(plan, placement))
    _complete(plan.features, lambda: _extract(plan, placement))
    _complete(plan.heads, lambda: _fit(plan, placement))


def drafts(plan: Plan) -> None:
    """Stage 4: answers to the retriever's prompts, to those that the heads' choices of records make, and samples."""
    _generate(plan, plan.drafts, DraftsPart(plan), "drafts", ERRORS)


def gate(plan: Plan) -> None:
    """How good each system is for each user on history that was held out: what the gate chooses by."""
    if plan.config.answers.is_gated:
        _complete(plan.gate, lambda: run_parts(plan.gate, "gate", GatePart(plan), plan.config.placement))


def answers(plan: Plan) -> None:
    """Stage 6: one answer a query and system; HYDRA's in LaMP's official prediction format too."""

    def write() -> Counters:
        counters = run_parts(plan.answers, "answers", AnswersPart(plan, _gates(plan)), plan.config.placement)
        predictions = storage.join(plan.answers.folder, "predictions.json")
        official_predictions(plan.task.prediction_name, _hydra_answers(plan), predictions)
        return counters

    _complete(plan.answers, write)


def report(plan: Plan, reused: Collection[str]) -> None:
    """Stage 7: metrics.json and report.html; what a person reads is copied to the run's own folder.

    Added users may come without any target; then there are answers, but nothing to report on.

    Args:
        reused: names of the stages that an earlier run had completed.
    """

    def write() -> Counters:
        from hydra_ray.evaluate.report import build_report
        from hydra_ray.evaluate.report_page import render_page

        if plan.parent is not None and not any(
            query.target for user, _ in answered_users(plan.users, plan.answers) for query in user.queries
        ):
            return {}
        metrics = build_report(
            plan.task,
            answered_users(plan.users, plan.answers),
            _costs(plan, reused),
            plan.config,
            _feature_weights(plan),
        )
        metrics["examples"] = explain_examples(plan, metrics["examples"])
        storage.write_json(storage.join(plan.report.folder, "metrics.json"), metrics)
        storage.write_bytes(storage.join(plan.report.folder, "report.html"), render_page(metrics).encode())
        return {}

    _complete(plan.report, write)
    for stage, name in (
        (plan.report, "metrics.json"),
        (plan.report, "report.html"),
        (plan.answers, "predictions.json"),
    ):
        if storage.exists(location := storage.join(stage.folder, name)):
            storage.write_bytes(storage.join(plan.run_folder, name), storage.read_bytes(location))
    if plan.parent is not None:
        storage.write_json(storage.join(plan.run_folder, "summary.json"), addition_summary(plan))
    record_stages(plan.run_folder, plan.stages())
    logger.info("report: %s", plan.run_folder)


def _train(plan: ScorerPlan, placement: PlacementConfig) -> Counters:
    from hydra_ray.scorer.base.train import train_bases

    start_ray()
    return train_bases(
        plan.examples,
        plan.base,
        plan.config.base,
        plan.interaction,
        plan.handcrafted_names,
        placement,
        list(dict.fromkeys(plan.base_folds)),
        has_soft_targets=plan.has_soft_targets,
    )


def _extract(plan: ScorerPlan, placement: PlacementConfig) -> Counters:
    from hydra_ray.scorer.heads.features import FeatureWriter, features_table

    names = list(map(base_name_of, dict.fromkeys(plan.base_folds)))
    stages = {"examples": plan.examples, "base": plan.base, "stage": plan.features}
    tables = list(map(features_table, names))
    return run_actor_parts(plan.features, tables, FeatureWriter, {**stages, "base_names": names}, placement)


def _fit(plan: ScorerPlan, placement: PlacementConfig) -> Counters:
    from hydra_ray.scorer.heads.fit import fit_heads

    start_ray()
    base_names = [base_name_of(fold) for fold in plan.base_folds]
    heads = plan.config.heads
    return fit_heads(
        plan.features,
        plan.heads,
        plan.head_prior,
        heads,
        placement,
        base_names,
        has_soft_targets=plan.has_soft_targets,
        num_prefitted=plan.num_prefitted,
    )


def _generate(plan: Plan, stage: Stage, work: GenerationWork, *tables: str) -> None:
    config = plan.config

    def ask() -> Counters:
        before = committed_counters((each, each.name) for each in (plan.profiles, plan.probes, plan.drafts))

        def go_on(counters: Counters) -> None:
            require_within(
                config, spending_of([*before, counters], config), lambda: bool(stage.missing_buckets(*tables))
            )

        return run_generation(
            stage, tables, work, plan.completions, plan.task, config.generator, config.placement, go_on
        )

    _complete(stage, ask)


def _complete(stage: Stage, work: Callable[[], Counters]) -> None:
    """Do the stage's work and write its manifest, unless that was done before."""
    require_not_stopped()
    if stage.is_complete():
        stage.manifest()  # one of another version is told before anything builds on its tables
        logger.info("%s: complete, kept (%s)", stage.name, stage.fingerprint)
        return
    with claim(stage), at_work(stage=stage.name):
        if stage.is_complete():
            logger.info("%s: made by another run meanwhile, kept (%s)", stage.name, stage.fingerprint)
            return
        for location in stage.set_aside_damaged():
            logger.warning("%s: %s is damaged; it was set aside and is made again", stage.name, location)
        logger.info("%s: starts", stage.name)
        start = time.monotonic()
        with tells_reason():
            counters = work()
        seconds = time.monotonic() - start
        stage.complete(seconds, counters)
        _on_computed.get()(stage)
        stage_ended(stage.name, seconds)
        logger.info("%s: complete in %.1f s", stage.name, seconds)


def _gates(plan: Plan) -> list[Gate | None]:
    """The gate of each fold, fitted to the users of the run that taught; none where the run is not gated."""
    num_folds = plan.adapter.num_folds
    if not plan.config.answers.is_gated:
        return [None] * num_folds
    outcomes = list(read_outcomes(plan.gate if plan.parent is None else plan.parent.stages[plan.gate.name]))
    return [fit_gate([outcome for outcome in outcomes if outcome.fold == fold]) for fold in range(num_folds)]


def _hydra_answers(plan: Plan) -> Iterator[tuple[str, str]]:
    """(id, answer) of the personalized system; failed queries are left out, never empty.

    An official LaMP id is unique; in your own data a query's id is so only within its user.
    """
    is_own = bool(plan.config.lamp.users_files)
    for user, answered in answered_users(plan.users, plan.answers):
        for query in answered.queries:
            for answer in query.answers:
                if answer.system == "hydra" and answer.value is not None:
                    yield f"{user.user_id}/{query.query_id}" if is_own else query.query_id, answer.value


def _feature_weights(plan: Plan) -> list[FeatureWeight]:
    """What each plain feature counts for, on the mean of the folds."""
    weights: list[FeatureWeight] = []
    for name, scorer in (("reranker", plan.reranker), ("adapter", plan.adapter)):
        head_priors = [read_prior(prior_folder(scorer.head_prior.folder, fold)) for fold in range(scorer.num_folds)]
        by_fold = [dict(feature_weights(each, scorer.handcrafted_names)) for each in head_priors]
        weights += [
            FeatureWeight(scorer=name, name=each, weight=fmean(fold[each] for fold in by_fold))
            for each in scorer.handcrafted_names
        ]
    return weights


def _costs(plan: Plan, reused: Collection[str]) -> list[StageCost]:
    """What each finished stage took."""
    return [
        StageCost(
            name=stage.name,
            seconds=manifest["seconds"],
            counters=manifest["counters"],
            is_reused=stage.name in reused,
        )
        for stage in plan.stages()
        if stage.is_complete()
        for manifest in [stage.manifest()]
    ]
