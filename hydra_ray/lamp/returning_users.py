"""Users of one bucket of an update: those who were there come back with the records that they had."""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from hydra_ray.lamp.changes import joined_history
from hydra_ray.lamp.field_checks import require_distinct
from hydra_ray.lamp.judgements import joined_judgements, judgements_of, judging_users
from hydra_ray.lamp.lamp_files import Sample
from hydra_ray.rows import JudgingUser, User, to_table
from hydra_ray.runs.updates import Line, Whereabouts


class ReturningUsers:
    """Everybody of one bucket who was there before an update."""

    def __init__(self, line: Line, bucket: int, user_ids: Iterable[str]) -> None:
        """Read the rows of those of some users who were there, and of nobody else."""
        wanted = set(user_ids)
        self._known = line.whereabouts(bucket)
        runs = {each: self._known[each].run if each in self._known else line.taught_by for each in wanted}
        self._users = line.rows("users", "users", bucket, User, runs)
        self._runs = {user_id: runs[user_id] for user_id in self._users}
        self._judgements = judgements_of(line, bucket, self._runs)
        self.counters: dict[str, float] = {"returning_users": 0.0, "added_records": 0.0, "changed_records": 0.0}
        """What is new of those who were joined."""
        self.num_unchanged = 0
        """Number of those of whom nothing is."""

    def joined(self, sample: Sample) -> User | None:
        """Return a sample's user with the whole history; None where nothing is new of a user who was there.

        Raises:
            MalformedError: a record has the id of another one that the user has, or a query that of a record's.
        """
        user_id = sample.user.user_id
        before, judged = self._users.get(user_id), self._judgements.get(user_id, ())
        judgements = joined_judgements(judged, sample.judgements, sample.withdrawn)
        history = joined_history(
            before.history if before else (), sample.user.history, sample.replaced, sample.withdrawn
        )
        is_changed = history.is_changed or judgements != judged
        if before is not None and not is_changed and not sample.user.queries:
            self.num_unchanged += 1
            return None
        require_distinct(history.history, sample.user.queries)
        self._judgements[user_id] = judgements
        self.counters["returning_users"] += before is not None
        self.counters["added_records"] += history.num_added
        self.counters["changed_records"] += history.num_changed
        return replace(sample.user, history=history.history)

    def judging_users(self, user_ids: Iterable[str]) -> list[JudgingUser]:
        """Return the rows of those of some users who have judgements, as of now."""
        return judging_users(self._judgements, user_ids)

    def whereabouts(self, run: str, user_ids: Iterable[str]) -> pa.Table:
        """Return the bucket's table of Whereabouts once some users are in a new run, sorted by user_id."""
        now = {each: Whereabouts(user_id=each, run=run, before=self._runs.get(each)) for each in user_ids}
        return to_table([row for _, row in sorted((self._known | now).items())], Whereabouts)
