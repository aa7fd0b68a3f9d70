"""The stages that the reranker and the adapter have in common: base, features and heads, made of examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra_ray.adapt import adapter_examples
from hydra_ray.adapt.label_features import num_prefitted
from hydra_ray.adapt.own_labels import adapter_heads
from hydra_ray.config import HeadsConfig, RunConfig, ScorerConfig, Task
from hydra_ray.engine.parts import Counters, run_actor_parts
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.rerank import reranker_examples
from hydra_ray.rows import ScoredUser, User
from hydra_ray.runs.settings import settings_of
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.base.spec import Interaction, base_name_of
from hydra_ray.scorer.heads.features import features_table
from hydra_ray.scorer.heads.store import scores_table
from hydra_ray.stages.definition import Duration, StageDefinition, with_scorers
from hydra_ray.stages.planning import Planning, encoder_settings, plugin_sources
from hydra_ray.stages.tables import read_rows

if TYPE_CHECKING:
    from hydra_ray.stages.plan import Plan

EXAMPLES = "examples"
"""Name of the table of examples."""
_HANDCRAFTED_NAMES: Mapping[str, Callable[[Task, RunConfig], tuple[str, ...]]] = {
    "reranker": reranker_examples.handcrafted_names,
    "adapter": adapter_examples.handcrafted_names,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerPlan:
    """The stages of one scorer, and what they compute."""

    config: ScorerConfig
    interaction: Interaction
    """Encoding of a candidate: together with the query, or each alone (closed label sets)."""
    handcrafted_names: tuple[str, ...]
    """Names of the handcrafted features of a candidate."""
    num_prefitted: int
    """Number of the last handcrafted features that are scores of fitted models themselves."""
    has_soft_targets: bool
    """Whether candidates that are not the best of their group have a part in the targets. In closed tasks the adapter
    learns how likely each label is the right one, and the expected quality is taken when it chooses."""
    base_folds: tuple[int | None, ...]
    """Fold whose new users the base of a fold must not learn from, by fold. An untrained base learns from no user, so
    that one, of no fold, serves all."""
    examples: Stage
    base: Stage
    features: Stage
    heads: Stage
    prior_heads: Stage
    """The heads stage that keeps the prior and shared heads: this one, or the parent run's."""

    @property
    def num_folds(self) -> int:
        """Number of folds of a cross-fitted run; 1 where the run's splits say who is new."""
        return len(self.base_folds)

    def stages(self) -> tuple[Stage, ...]:
        """Return the scorer's stages, in order."""
        return self.examples, self.base, self.features, self.heads


def scorer_plan(plan: "Plan", name: str) -> ScorerPlan:
    """Return the plan of the reranker or the adapter."""
    task = plan.task
    config = _section(plan.config, name, task)
    heads = plan.stage(f"{name}.heads")
    names = _HANDCRAFTED_NAMES[name](task, plan.config)
    return ScorerPlan(
        config=config,
        interaction=_interaction(name, config, task),
        handcrafted_names=names,
        num_prefitted=num_prefitted(names),
        has_soft_targets=name == "reranker" or not task.is_closed,
        base_folds=_base_folds(plan, config),
        examples=plan.stage(f"{name}.examples"),
        base=plan.stage(f"{name}.base"),
        features=plan.stage(f"{name}.features"),
        heads=heads,
        prior_heads=heads if plan.parent is None else plan.parent.stages.get(heads.name, heads),
    )


def scorer_stages(
    name: str, features_duration: Duration, heads_duration: Duration
) -> tuple[StageDefinition, StageDefinition, StageDefinition]:
    """Return base, features and heads of the reranker or the adapter; its examples come before them."""
    base = StageDefinition(
        name=f"{name}.base",
        version=2,
        inputs=(f"{name}.examples",),
        settings=lambda planning: _base_settings(planning, name),
        make=lambda plan: _train(plan, name),
        is_made=with_scorers,
        is_inherited=True,
        file_kinds={r"train/.+": "unfinished", r"base(-\d+)?/[^/]+": "learned"},
        learns_from="training users",
        workers="training",
        duration=Duration(fixed=5, per_user=0, epoch=(3.0, 0.1)),
    )
    features = StageDefinition(
        name=f"{name}.features",
        version=2,
        inputs=(base.name,),
        # An inherited base does not depend on the child run's examples.
        child_inputs=(f"{name}.examples",),
        make=lambda plan: _extract(plan, name),
        is_made=with_scorers,
        tables=lambda plan: tuple(map(features_table, _base_names(scorer_plan(plan, name)))),
        workers="encoders",
        duration=features_duration,
    )
    heads = StageDefinition(
        name=f"{name}.heads",
        version=5,
        inputs=(features.name,),
        parent_inputs=(f"{name}.heads",),
        settings=lambda planning: _heads_settings(planning, name),
        make=lambda plan: _fit(plan, name),
        is_made=with_scorers,
        tables=lambda plan: tuple(map(scores_table, range(scorer_plan(plan, name).num_folds))),
        file_kinds={r"tune/.+": "unfinished", r"population-\d+/[^/]+": "learned"},
        learns_from="training users",
        workers="trials",
        duration=heads_duration,
    )
    return base, features, heads


def examples_settings(planning: Planning, name: str) -> dict[str, Any]:
    """Return what the examples of the reranker or the adapter depend on."""
    names = _HANDCRAFTED_NAMES[name](planning.task, planning.config)
    section: ScorerConfig = getattr(planning.config, name)
    labels = {} if section.labels == "quality" else {"labels": section.labels}
    return {"task": planning.task, "plain_names": names, **labels, **plugin_sources(planning, f"{name}.plain_features")}


def scores_of_users(plan: "Plan", name: str, bucket: int, users: Sequence[User]) -> dict[str, ScoredUser]:
    """Return each user's scores, in a cross-fitted run those of the fold in which the user is new."""
    scorer = scorer_plan(plan, name)
    folds = {fold: read_rows(scorer.heads, scores_table(fold), bucket, ScoredUser) for fold in range(scorer.num_folds)}
    return {user.user_id: folds[user.fold or 0][user.user_id] for user in users}


def _section(config: RunConfig, name: str, task: Task) -> ScorerConfig:
    """Return the section of a scorer with the heads that it fits."""
    section: ScorerConfig = getattr(config, name)
    return section.model_copy(update={"heads": adapter_heads(task, config)}) if name == "adapter" else section


def _interaction(name: str, section: ScorerConfig, task: Task) -> Interaction:
    return section.base.interaction or ("bilinear" if name == "adapter" and task.is_closed else "pair")


def _base_folds(plan: "Plan", scorer: ScorerConfig) -> tuple[int | None, ...]:
    num_folds = (plan.config if plan.parent is None else plan.parent.config).users.num_folds
    is_common = num_folds == 1 or not scorer.base.num_epochs
    folds = tuple(None if is_common else fold for fold in range(num_folds))
    return folds if plan.parent is None else folds[:1]


def _base_names(plan: ScorerPlan) -> list[str]:
    """Return the names of the bases, each once."""
    return list(map(base_name_of, dict.fromkeys(plan.base_folds)))


def _base_settings(planning: Planning, name: str) -> dict[str, Any]:
    section = _section(planning.config, name, planning.task)
    encoder = encoder_settings(section, planning.encoder_of(name))["encoder"]
    base = {**settings_of(section.base, exclude={"interaction"}), "encoder": encoder}
    return {"base": base, "interaction": _interaction(name, section, planning.task)}


def _heads_settings(planning: Planning, name: str) -> dict[str, Any]:
    section = _section(planning.config, name, planning.task)
    num_trusted = num_prefitted(_HANDCRAFTED_NAMES[name](planning.task, planning.config))
    fitted = {"trusted": num_trusted} if num_trusted else {}
    has_basis = "lowrank" in section.heads.kinds
    # The users who validate the heads differ only where the base was trained on some of the users.
    validated = {"judges": "unseen users"} if section.base.num_epochs and has_basis else {}
    return {"heads": _own_heads_settings(section.heads), **fitted, **validated}


def _own_heads_settings(heads: HeadsConfig) -> dict[str, Any]:
    """Return the section with the versions of the basis and of the networks, where there are any; a prior as estimated
    adds nothing."""
    settings = settings_of(heads, exclude={"prior_scale"} if heads.prior_scale == 1 else set())
    versions = {"lowrank": "basis", "paper": "networks"}
    return settings | {name: 2 for kind, name in versions.items() if kind in heads.kinds}


def _train(plan: "Plan", name: str) -> Counters:
    """Train the bases."""
    from hydra_ray.scorer.base.train import train_bases

    start_ray()
    scorer = scorer_plan(plan, name)
    return train_bases(
        scorer.examples,
        scorer.base,
        scorer.config.base,
        scorer.interaction,
        scorer.handcrafted_names,
        plan.config.placement,
        list(dict.fromkeys(scorer.base_folds)),
        has_soft_targets=scorer.has_soft_targets,
    )


def _extract(plan: "Plan", name: str) -> Counters:
    """Compute the features that the bases make of the examples."""
    from hydra_ray.scorer.heads.features import FeatureWriter

    scorer = scorer_plan(plan, name)
    names = _base_names(scorer)
    stages = {"examples": scorer.examples, "base": scorer.base, "stage": scorer.features}
    tables = list(map(features_table, names))
    placement = plan.config.placement
    arguments = {**stages, "base_names": names, "num_gpus": placement.encoder_gpus}
    return run_actor_parts(scorer.features, tables, FeatureWriter, arguments, placement)


def _fit(plan: "Plan", name: str) -> Counters:
    """Fit the heads: Ray Tune."""
    from hydra_ray.scorer.heads.fit import fit_heads

    start_ray()
    scorer = scorer_plan(plan, name)
    return fit_heads(
        scorer.features,
        scorer.heads,
        scorer.prior_heads,
        scorer.config.heads,
        plan.config.placement,
        [base_name_of(fold) for fold in scorer.base_folds],
        has_soft_targets=scorer.has_soft_targets,
        num_prefitted=scorer.num_prefitted,
    )
