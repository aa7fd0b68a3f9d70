"""Rows that users of an update, or of a refreshed run, have in the newest run before it."""

from collections.abc import Sequence

from hydra_ray.retrieve.earlier import Earlier
from hydra_ray.rows import DraftedUser, ProbedUser, User
from hydra_ray.runs.updates import WHEREABOUTS, Line, Whereabouts
from hydra_ray.stages.definition import definitions
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.tables import read_rows


def earlier_rows(plan: Plan, bucket: int, users: Sequence[User], *, has_drafts: bool = False) -> dict[str, Earlier]:
    """Return what was asked for the users of a bucket before an update or a refreshed run, by user_id: of those who
    were there. In a refreshed run another reranker chooses records, so that no drafts are those of before.

    Args:
        users: the bucket's users as of now.
        has_drafts: whether drafts are read too.
    """
    if plan.line is None or not plan.task.has_pseudo_queries:
        return {}
    if plan.config.refresh is None:
        where = read_rows(plan.users, WHEREABOUTS, bucket, Whereabouts)
        runs = {user.user_id: before for user in users if (before := where[user.user_id].before) is not None}
    elif users and not has_drafts and _are_probes_alike(plan, plan.line):
        runs = next(plan.line.runs_of(bucket, [user.user_id for user in users]))
    else:
        runs = {}
    before = plan.line.rows("users", "users", bucket, User, runs)
    probed = plan.line.rows("probes", "probes", bucket, ProbedUser, runs)
    drafted = plan.line.rows("drafts", "drafts", bucket, DraftedUser, runs) if has_drafts else {}
    return {
        user.user_id: Earlier(
            user=user,
            before=before[user.user_id],
            probed=probed[user.user_id],
            drafted=drafted.get(user.user_id),
        )
        for user in users
        if user.user_id in probed
    }


def _are_probes_alike(plan: Plan, line: Line) -> bool:
    """Return whether a refreshed run asks its probes with the settings, models and code of the run before it."""
    before = line.open(line.taught_by)
    versions = next(each.like_versions for each in definitions() if each.name == plan.probes.name)
    return plan.probes.name in before.stages and not before.differing(plan.probes, versions)
