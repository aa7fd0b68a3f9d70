"""Evaluated users joined with their answers and the adapter's scores, read from the tables of a run."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from hydra_ray import storage
from hydra_ray.rows import AnsweredUser, ScoredUser, User, arrow_schema, from_table
from hydra_ray.scorer.heads.store import scores_table
from hydra_ray.stages.plan import Plan
from hydra_ray.storage.parallel import mapped


def scored_answers(plan: Plan) -> Iterator[tuple[User, AnsweredUser, ScoredUser]]:
    """Yield each evaluated user with the user's answers and the adapter's scores, a few buckets in memory at a time.

    In a cross-fitted run the scores are those of the fold in which the user is new.
    """
    heads, folds = plan.adapter.heads, range(plan.adapter.num_folds)

    def tables(bucket: int) -> tuple[pa.Table, pa.Table, list[pa.Table]]:
        scores = (storage.read_part(heads.part(scores_table(fold), bucket), arrow_schema(ScoredUser)) for fold in folds)
        return (
            storage.read_part(plan.users.part("users", bucket), arrow_schema(User)),
            storage.read_part(plan.answers.part("answers", bucket), arrow_schema(AnsweredUser)),
            # Most users of a fold are training users, whose many groups nobody asks for.
            [table.filter(pc.field("is_new")) for table in scores],
        )

    for known, answers, scores in mapped(tables, plan.answers.buckets):
        answered = {row.user_id: row for row in from_table(answers, AnsweredUser)}
        scored = [{row.user_id: row for row in from_table(table, ScoredUser)} for table in scores]
        for user in from_table(known, User):
            if user.is_evaluated():
                yield user, answered[user.user_id], scored[user.fold or 0][user.user_id]
