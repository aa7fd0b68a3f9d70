"""The path from raw files to a report: the one module that wires stages to engines.

`personalize` is the whole path on one screen. A stage that is complete is skipped before anything of it is read, and
Ray is started only by the first one that is not.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator

from hydra_ray import storage
from hydra_ray.config import STAGE_NAMES, PlacementConfig, RunConfig
from hydra_ray.evaluate.report import StageCost
from hydra_ray.lamp.predictions import official_predictions
from hydra_ray.lamp.users import ingest
from hydra_ray.parts import AdapterExamplesPart, AnswersPart, DraftsPart, ProbesPart, RerankerExamplesPart
from hydra_ray.plan import Plan, ScorerPlan, plan_run
from hydra_ray.records import AnsweredUser, User, arrow_schema, from_table
from hydra_ray.stages import Stage
from hydra_ray.stream import Counters, PartWork, run_actor_parts, run_generation, run_parts, start_ray

logger = logging.getLogger(__name__)


def personalize(config: RunConfig, until: str = "report") -> Plan:
    """Run every stage up to `until` that is not complete yet; a finished run does no work.

    Raises:
        HydraError: what went wrong, and what to do about it.
    """
    plan = plan_run(config)
    reused = {stage.name for stage in plan.stages() if stage.is_complete()}
    if not plan.report.is_complete():
        storage.remove_folder(plan.run_folder)  # a report of another configuration under this run's name
    storage.write_json(storage.join(plan.run_folder, "config.json"), config.model_dump(mode="json"))
    steps: dict[str, Callable[[], None]] = {
        "users": lambda: users(plan),
        "probes": lambda: probes(plan),
        "reranker": lambda: scorer(plan.reranker, RerankerExamplesPart(plan), config.placement),
        "drafts": lambda: drafts(plan),
        "adapter": lambda: scorer(plan.adapter, AdapterExamplesPart(plan), config.placement),
        "answers": lambda: answers(plan),
        "report": lambda: report(plan, reused),
    }
    for name in STAGE_NAMES[: STAGE_NAMES.index(until) + 1]:
        steps[name]()
    return plan


def users(plan: Plan) -> None:
    """Stage 1: raw files to bucketed users."""
    _complete(plan.users, lambda: ingest(plan.config, plan.users))


def probes(plan: Plan) -> None:
    """Stage 2: one-record prompts, labelled by whether they helped."""
    config = plan.config
    work = ProbesPart(plan)
    _complete(
        plan.probes,
        lambda: run_generation(plan.probes, "probes", work, plan.task, config.generator, config.placement),
    )


def scorer(plan: ScorerPlan, examples: PartWork, placement: PlacementConfig) -> None:
    """Stages 3 and 5: examples, base (Ray Train and DeepSpeed), frozen features, heads (Ray Tune)."""

    def train() -> Counters:
        from hydra_ray.scorer.training import train_base

        start_ray()
        return train_base(plan.examples, plan.base, plan.config.base, plan.interaction, plan.plain_names, placement)

    def extract() -> Counters:
        from hydra_ray.scorer.features import FeatureWriter

        stages = {"examples": plan.examples, "base": plan.base, "stage": plan.features}
        return run_actor_parts(plan.features, "features", FeatureWriter, stages, placement.train_threads)

    def fit() -> Counters:
        from hydra_ray.scorer.fitting import fit_heads

        start_ray()
        return fit_heads(plan.features, plan.heads, plan.config.heads, placement)

    _complete(plan.examples, lambda: run_parts(plan.examples, "examples", examples))
    _complete(plan.base, train)
    _complete(plan.features, extract)
    _complete(plan.heads, fit)


def drafts(plan: Plan) -> None:
    """Stage 4: b answers to the prompts that the heads' choices of records make."""
    config = plan.config
    work = DraftsPart(plan)
    _complete(
        plan.drafts,
        lambda: run_generation(plan.drafts, "drafts", work, plan.task, config.generator, config.placement),
    )


def answers(plan: Plan) -> None:
    """Stage 6: one answer a query and system; HYDRA's in LaMP's official prediction format too."""

    def write() -> Counters:
        counters = run_parts(plan.answers, "answers", AnswersPart(plan))
        predictions = storage.join(plan.answers.folder, "predictions.json")
        official_predictions(plan.task, _hydra_answers(plan), predictions)
        return counters

    _complete(plan.answers, write)


def report(plan: Plan, reused: Collection[str]) -> None:
    """Stage 7: metrics.json and report.html; what a person reads is copied to the run's own folder.

    Args:
        reused: names of the stages that an earlier run had completed.
    """

    def write() -> Counters:
        from hydra_ray.evaluate.page import render_page
        from hydra_ray.evaluate.report import build_report

        metrics = build_report(plan.task, _answered_users(plan), _costs(plan, reused), plan.config)
        storage.write_json(storage.join(plan.report.folder, "metrics.json"), metrics)
        storage.write_bytes(storage.join(plan.report.folder, "report.html"), render_page(metrics).encode())
        return {}

    _complete(plan.report, write)
    for stage, name in (
        (plan.report, "metrics.json"),
        (plan.report, "report.html"),
        (plan.answers, "predictions.json"),
    ):
        content = storage.read_bytes(storage.join(stage.folder, name))
        storage.write_bytes(storage.join(plan.run_folder, name), content)
    logger.info("report: %s", storage.join(plan.run_folder, "report.html"))


def _complete(stage: Stage, work: Callable[[], Counters]) -> None:
    """Do the stage's work and write its manifest, unless that was done before."""
    if stage.is_complete():
        logger.info("%s: complete, kept (%s)", stage.name, stage.fingerprint)
        return
    logger.info("%s: starts", stage.name)
    start = time.monotonic()
    counters = work()
    seconds = time.monotonic() - start
    stage.complete(seconds, counters)
    logger.info("%s: complete in %.1f s", stage.name, seconds)


def _answered_users(plan: Plan) -> Iterator[tuple[User, AnsweredUser]]:
    """New users with their answers, a bucket at a time."""
    for bucket in range(plan.answers.num_buckets):
        part = storage.read_part(plan.answers.part("answers", bucket), arrow_schema(AnsweredUser))
        answered = {row.user_id: row for row in from_table(part, AnsweredUser)}
        part = storage.read_part(plan.users.part("users", bucket), arrow_schema(User))
        for user in from_table(part, User):
            if user.is_new:
                yield user, answered[user.user_id]


def _hydra_answers(plan: Plan) -> Iterator[tuple[str, str]]:
    """(id, answer) of the personalized system; failed queries are left out, never empty.

    An official LaMP id is unique; in your own data a query's id is so only within its user.
    """
    is_own = bool(plan.config.lamp.users_files)
    for user, answered in _answered_users(plan):
        for query in answered.queries:
            for answer in query.answers:
                if answer.system == "hydra" and answer.value is not None:
                    yield f"{user.user_id}/{query.query_id}" if is_own else query.query_id, answer.value


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
