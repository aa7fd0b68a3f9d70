"""The reranker, the scorer that chooses records: examples, base, features, heads."""

from hydra_ray.engine.parts import Counters, run_parts
from hydra_ray.rerank.reranker_examples import reranker_examples
from hydra_ray.rows import ProbedUser, UserExamples
from hydra_ray.stages.definition import Duration, StageDefinition, with_scorers
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.scorer import EXAMPLES, examples_settings, scorer_stages
from hydra_ray.stages.tables import read_rows, read_users, write_rows


class RerankerExamplesPart:
    """A bucket's groups of retrieved records."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def __call__(self, bucket: int) -> Counters:
        """Make and commit the part."""
        plan, users = self._plan, read_users(self._plan, bucket)
        probed = read_rows(plan.probes, "probes", bucket, ProbedUser)
        rows = [reranker_examples(user, probed[user.user_id], plan.task, plan.config) for user in users]
        return write_rows(plan.stage("reranker.examples"), EXAMPLES, bucket, rows, UserExamples, {})


def _make(plan: Plan) -> Counters:
    return run_parts(plan.stage("reranker.examples"), EXAMPLES, RerankerExamplesPart(plan), plan.config.placement)


STAGES = (
    StageDefinition(
        name="reranker.examples",
        version=3,
        inputs=("users", "probes"),
        settings=lambda planning: examples_settings(planning, "reranker"),
        make=_make,
        is_made=with_scorers,
        tables=lambda _: (EXAMPLES,),
        duration=Duration(fixed=3, per_user=0.01),
    ),
    *scorer_stages("reranker", Duration(fixed=5, per_user=0.25), Duration(fixed=8, per_user=0.02)),
)
