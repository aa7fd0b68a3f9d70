"""The report: metrics.json and report.html, and what of a finished run is kept in the run's own folder."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean
from typing import Any

from hydra_ray import storage
from hydra_ray.adapt.scored_pools import scored_pools
from hydra_ray.engine.parts import Counters
from hydra_ray.evaluate.best_of_n import BestOfN
from hydra_ray.evaluate.report import FeatureWeight, StageCost, build_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.models.model_records import without_pins
from hydra_ray.rows import AnsweredUser, User
from hydra_ray.runs.run_folder import publishing, record_stages
from hydra_ray.runs.settings import settings_of
from hydra_ray.runs.user_answers import answered_users
from hydra_ray.scorer.heads.store import prior_folder
from hydra_ray.scorer.linear.prior import feature_weights, read_prior
from hydra_ray.stages.answers import PREDICTIONS, PREDICTIONS_TABLE
from hydra_ray.stages.definition import Duration, StageDefinition
from hydra_ray.stages.explained import explain_examples
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import Planning
from hydra_ray.stages.scored_answers import scored_answers
from hydra_ray.stages.update_summary import update_summary

logger = logging.getLogger(__name__)

METRICS, PAGE, _SUMMARY = "metrics.json", "report.html", "summary.json"


def publish(plan: Plan) -> None:
    """Copy what a person reads of a finished run to the run's own folder, and record there what the run consists of."""
    answers = ((plan.answers, PREDICTIONS_TABLE), (plan.answers, PREDICTIONS))
    with publishing(plan.run_folder, [METRICS, PAGE, PREDICTIONS_TABLE, PREDICTIONS, _SUMMARY]):
        for stage, name in ((plan.report, METRICS), (plan.report, PAGE), *answers):
            if storage.exists(location := storage.join(stage.folder, name)):
                _copy_if_new(location, storage.join(plan.run_folder, name))
        if plan.parent is not None:
            storage.publish_json(storage.join(plan.run_folder, _SUMMARY), update_summary(plan))
    record_stages(plan.run_folder, plan.stages())
    logger.info("report: %s", plan.run_folder)


def _copy_if_new(location: str, copy: str) -> None:
    content = storage.read_bytes(location)
    if storage.read_if_there(copy) != content:
        storage.write_bytes(copy, content)


def _make(plan: Plan) -> Counters:
    """Write the report; where a child run's users come without any target, or all candidates were drafted, there is
    nothing to report on."""
    if (plan.parent is not None or plan.config.drafts_candidates) and not any(
        query.target for user, _ in answered_users(plan.users, plan.answers) for query in user.queries
    ):
        return {}
    best_of_n = BestOfN()
    users = _users_of_drafts(plan, best_of_n) if plan.config.has_scorers else answered_users(plan.users, plan.answers)
    metrics = build_report(plan.task, users, _costs(plan), plan.config, _feature_weights(plan))
    metrics["best_of_n"] = best_of_n.figures(plan.config.report)
    metrics["plugins"] = [asdict(each) for each in plan.plugins]
    if plan.config.has_scorers:
        metrics["examples"] = explain_examples(plan, metrics["examples"])
    storage.publish_json(storage.join(plan.report.folder, METRICS), metrics)
    storage.write_bytes(storage.join(plan.report.folder, PAGE), render_page(metrics).encode())
    return {}


def _users_of_drafts(plan: Plan, best_of_n: BestOfN) -> Iterator[tuple[User, AnsweredUser]]:
    """Yield each evaluated user with the user's answers, and add the user's scored drafts to `best_of_n`."""
    for user, answered, scored in scored_answers(plan):
        best_of_n.add(list(scored_pools(plan.task, user, answered, scored)))
        yield user, answered


def _feature_weights(plan: Plan) -> list[FeatureWeight]:
    """Return the weight of each handcrafted feature, averaged over folds; none of scorers that are not made."""
    if not plan.config.has_scorers:
        return []
    weights: list[FeatureWeight] = []
    for name, scorer in (("reranker", plan.reranker), ("adapter", plan.adapter)):
        priors = [read_prior(prior_folder(scorer.prior_heads.folder, fold)) for fold in range(scorer.num_folds)]
        by_fold = [dict(feature_weights(each, scorer.handcrafted_names)) for each in priors]
        weights += [
            FeatureWeight(scorer=name, name=each, weight=fmean(fold[each] for fold in by_fold))
            for each in scorer.handcrafted_names
        ]
    return weights


def _costs(plan: Plan) -> list[StageCost]:
    """Return what each finished stage took."""
    return [
        StageCost(
            name=stage.name,
            seconds=manifest["seconds"],
            counters=manifest["counters"],
            is_reused=stage.name in plan.reused,
        )
        for stage in plan.stages()
        if stage.is_complete()
        for manifest in [stage.manifest()]
    ]


def _settings(planning: Planning) -> dict[str, Any]:
    given = planning.given.model_copy(update={"report": planning.given.report.model_copy(update={"trackers": ()})})
    return {"config": settings_of(without_pins(given), exclude={"budget"})}


STAGES = (
    StageDefinition(
        name="report",
        version=8,
        inputs=("answers",),
        settings=_settings,
        make=_make,
        may_differ=True,
        file_kinds={r"metrics\.json": "report", r"report\.html": "page"},
        workers="driver",
        duration=Duration(fixed=1, per_user=0.005),
    ),
)
