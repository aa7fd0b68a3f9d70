"""Pseudo-queries of a user who comes back with an update: those that an earlier run asked stay as they were asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.rows import DraftedQuery, DraftedUser, ProbedQuery, ProbedUser, User
from hydra_ray.seeds import rng_of


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A user's rows in the newest run before an update, and what of them still holds. Key: user.user_id."""

    user: User
    """The user as of the update."""
    before: User
    """The user as of the earlier run."""
    probed: ProbedUser
    drafted: DraftedUser | None = None
    """None where drafts are not looked at."""
    unchanged: frozenset[str] = field(init=False)
    """Ids of the records that are as they were."""

    def __post_init__(self) -> None:
        """Compare the histories."""
        now = {record.record_id: record for record in self.user.history}
        unchanged = (each.record_id for each in self.before.history if now.get(each.record_id) == each)
        object.__setattr__(self, "unchanged", frozenset(unchanged))

    def probes(self) -> dict[str, ProbedQuery]:
        """Return the pseudo-queries, by query_id, that have all their answers and unchanged records."""
        own = {pseudo_query_id(record_id) for record_id in self.unchanged}
        return {
            query.query_id: query
            for query in self.probed.queries
            if query.is_pseudo
            and query.query_id in own
            and query.probes
            and all(each.record_id in self.unchanged and each.answer.error is None for each in query.probes)
        }

    def drafts(self, probed: ProbedUser) -> dict[str, DraftedQuery]:
        """Return the drafts of the pseudo-queries, by query_id, that have all their answers, show unchanged records and
        were made from the probes that the user has now.

        Args:
            probed: the user's probes as of the update.
        """
        kept, now = self.probes(), {query.query_id: query for query in probed.queries}
        return {
            query.query_id: query
            for query in (self.drafted.queries if self.drafted else ())
            if query.query_id in kept
            and now.get(query.query_id) == kept[query.query_id]
            and self.unchanged.issuperset(name for prompt in query.prompts for name in prompt.record_ids)
            and all(draft.answer.error is None for draft in query.drafts)
        }

    def sampled(self, possible: Sequence[str], num: int, seed: int) -> list[str]:
        """Return a sample of records that goes on from the earlier one: again uniform over the history and in random
        order, and with as few new records as that allows.

        A new record enters as in a shuffle that is told the cards one by one (Fisher and Yates from the inside), and
        where there is no more room as in reservoir sampling (Vitter 1985, algorithm R).

        Args:
            possible: ids of the records that can be pseudo-queries, in the order of the history.
            num: size of the sample, where there are as many.
            seed: of the sample.
        """
        was = {record.record_id for record in self.before.history}
        asked = [query.query_id for query in self.probed.queries if query.is_pseudo]
        by_query = {pseudo_query_id(each): each for each in possible}
        sample = [by_query[each] for each in asked if each in by_query][:num]
        num_seen = sum(each in was for each in possible)
        for record_id in (each for each in possible if each not in was):
            num_seen += 1
            rng = rng_of(seed, "pseudo-queries", self.user.user_id, record_id)
            if len(sample) < min(num, num_seen):
                place = int(rng.integers(len(sample) + 1))
                sample.append(record_id)
                sample[place], sample[-1] = sample[-1], sample[place]
            elif (place := int(rng.integers(num_seen))) < num:
                sample[place] = record_id
        # Where records were deleted, others take their places.
        rest = sorted(set(possible) - set(sample))
        order = rng_of(seed, "pseudo-queries", self.user.user_id).permutation(len(rest))
        return [*sample, *(rest[each] for each in order[: max(num - len(sample), 0)])]
