"""The gate's outcomes: how good each system is for each user on history that was held out."""

from collections.abc import Iterator

from hydra_ray.adapt.gate import Gate, fit_gate, user_outcomes
from hydra_ray.engine.parts import Counters, run_parts
from hydra_ray.rows import DraftedUser, GateOutcome, ScoredUser, arrow_schema, from_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.store import scores_table
from hydra_ray.stages.definition import Duration, StageDefinition
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.tables import read_rows, read_users, write_rows
from hydra_ray.storage import read_part
from hydra_ray.storage.parallel import mapped

_TABLE = "gate"


class GatePart:
    """Outcomes of a bucket's users under each system that the gate chooses among, in each fold."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan, heads = self._plan, self._plan.adapter.heads
        drafted = read_rows(plan.drafts, "drafts", bucket, DraftedUser)
        folds = [read_rows(heads, scores_table(fold), bucket, ScoredUser) for fold in range(plan.adapter.num_folds)]
        rows = [
            outcome
            for user in read_users(plan, bucket)
            for outcome in user_outcomes(user, drafted[user.user_id], [fold[user.user_id] for fold in folds], plan.task)
        ]
        return write_rows(plan.gate, _TABLE, bucket, rows, GateOutcome, {})


def read_outcomes(gate: Stage) -> Iterator[GateOutcome]:
    """Yield the outcomes of all users, a few buckets in memory at a time."""
    for table in mapped(lambda location: read_part(location, arrow_schema(GateOutcome)), gate.parts(_TABLE)):
        yield from from_table(table, GateOutcome)


def fitted_gates(plan: Plan) -> list[Gate | None]:
    """Return the gate of each fold, the parent run's where there is one; None where the run is not gated."""
    num_folds = plan.adapter.num_folds
    if not plan.config.answers.is_gated:
        return [None] * num_folds
    outcomes = list(read_outcomes(plan.gate if plan.parent is None else plan.parent.stages[plan.gate.name]))
    return [fit_gate([outcome for outcome in outcomes if outcome.fold == fold]) for fold in range(num_folds)]


STAGES = (
    StageDefinition(
        name="gate",
        version=1,
        inputs=("users", "drafts", "adapter.heads"),
        make=lambda plan: run_parts(plan.gate, _TABLE, GatePart(plan), plan.config.placement),
        tables=lambda _: (_TABLE,),
        is_made=lambda config: config.has_scorers and config.answers.is_gated,
        duration=Duration(fixed=3, per_user=0.01),
    ),
)
