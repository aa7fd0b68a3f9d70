"""Rows that users of an update have in the newest run before it."""

from collections.abc import Sequence

from hydra_ray.retrieve.earlier import Earlier
from hydra_ray.rows import DraftedUser, ProbedUser, User
from hydra_ray.runs.updates import WHEREABOUTS, Whereabouts
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.tables import read_rows


def earlier_rows(plan: Plan, bucket: int, users: Sequence[User], *, has_drafts: bool = False) -> dict[str, Earlier]:
    """Return what was asked for the users of a bucket before an update, by user_id: of those who came back.

    Args:
        users: the bucket's users as of the update.
        has_drafts: whether drafts are read too.
    """
    if plan.line is None or not plan.task.has_pseudo_queries:
        return {}
    where = read_rows(plan.users, WHEREABOUTS, bucket, Whereabouts)
    runs = {user.user_id: before for user in users if (before := where[user.user_id].before) is not None}
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
