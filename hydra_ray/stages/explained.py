"""Explanations of a report's examples, read from the tables of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hydra_ray.adapt.explanation import Explanation, explain_query
from hydra_ray.evaluate.evaluation_data import clipped
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.runs.stage import bucket_of
from hydra_ray.stages.answers import scored_users
from hydra_ray.stages.plan import Plan


def explain_examples(plan: Plan, examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a report's examples (see `hydra_ray.evaluate.report`), each with its `records` and `drafts`."""
    found = explanations(plan, {(each["user_id"], each["query_id"]) for each in examples})
    return [with_explanation(each, found[each["user_id"], each["query_id"]]) for each in examples]


def explanations(plan: Plan, queries: set[tuple[str, str]]) -> dict[tuple[str, str], Explanation]:
    """Return explanations of the answers to some queries, by user_id and query_id.

    Args:
        queries: user_id and query_id of each, all of users who are evaluated.
    """
    key, num_buckets = bucket_key_of(plan.config), plan.users.num_buckets
    user_ids = {user_id for user_id, _ in queries}
    rows = {
        row.user.user_id: row
        for bucket in sorted({bucket_of(user_id, num_buckets, key) for user_id in user_ids})
        for row in scored_users(plan, bucket)
        if row.user.user_id in user_ids
    }
    return {(user_id, query_id): explain_query(rows[user_id], query_id, plan.task) for user_id, query_id in queries}


def with_explanation(example: Mapping[str, Any], explanation: Explanation) -> dict[str, Any]:
    """Return an example of a report with the explanation as plain JSON, its texts clipped like those of the example."""
    return {
        **example,
        "records": [
            asdict(
                replace(
                    each,
                    input=clipped(each.input),
                    output=clipped(each.output),
                    probe=clipped(each.probe),
                )
            )
            for each in explanation.records
        ],
        "drafts": [asdict(replace(each, value=clipped(each.value))) for each in explanation.drafts],
    }
