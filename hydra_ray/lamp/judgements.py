"""Judgements: what people say of drafts in a text task, of which only their own text could be a record.

A judgement keeps the drafts that the adapter's heads chose among, each with the handcrafted features that it had then,
so that nothing is asked or retrieved again: it is one more group to learn from, beside those of pseudo-queries, whose
drafts the task's metric judges. It belongs to its user as records do: who comes back has it, who withdraws the feedback
by its id loses it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from hydra_ray.config import Task
from hydra_ray.lamp.field_checks import MalformedError
from hydra_ray.lamp.given_answers import GivenAnswer
from hydra_ray.lamp.quality import quality
from hydra_ray.rows import Group, JudgedDraft, Judgement, JudgingUser
from hydra_ray.runs.updates import Line

JUDGEMENTS = "judgements"
"""Name of the table of JudgingUser in the users stage of an update or a refreshed run; a bucket without any has no
part."""


def preference(
    judgement_id: str, given: GivenAnswer, named: str, features: Sequence[str], *, is_better: bool
) -> Judgement:
    """Return the judgement that one draft is better, or worse, than all others.

    Args:
        features: names of the drafts' handcrafted features.

    Raises:
        MalformedError: the drafts are not kept, the text is none of them, or there is no other.
    """
    drafts = drafts_of(given)
    texts = [each.text for each in drafts.candidates]
    if named not in texts:
        raise MalformedError(f"the text is none of the {len(texts)} drafts that the answer was chosen from")
    if len(texts) < 2:
        raise MalformedError("the answer was the only draft: feedback on it says nothing of others")
    qualities = [float((text == named) == is_better) for text in texts]
    return _judgement(judgement_id, drafts, features, qualities, is_preference=True)


def comparison(task: Task, judgement_id: str, given: GivenAnswer, own: str, features: Sequence[str]) -> Judgement:
    """Return the judgement of the drafts by how near they come to the user's own text.

    Raises:
        MalformedError: the drafts are not kept.
    """
    drafts = drafts_of(given)
    qualities = [quality(task, each.text, own) for each in drafts.candidates]
    return _judgement(judgement_id, drafts, features, qualities, is_preference=False)


def drafts_of(given: GivenAnswer) -> Group:
    """Return the drafts that an answer was chosen from.

    Raises:
        MalformedError: they are not kept.
    """
    if given.drafts is None:
        raise MalformedError("the run that answered keeps no drafts that its answer was chosen from")
    return given.drafts


def joined_judgements(
    before: Sequence[Judgement], given: Sequence[Judgement], withdrawn: Collection[str]
) -> tuple[Judgement, ...]:
    """Return the judgements of before and the given ones, which take the place of earlier ones on the same query.

    Args:
        withdrawn: ids of those before that are withdrawn.
    """
    kept = {each.judgement_id: each for each in before if each.judgement_id not in withdrawn}
    return tuple((kept | {each.judgement_id: each for each in given}).values())


def judgements_of(line: Line, bucket: int, runs: Mapping[str, str]) -> dict[str, tuple[Judgement, ...]]:
    """Return the judgements of some users of a bucket, of those who have any.

    Args:
        runs: run of the line from which each user's are taken, by user_id.
    """
    rows = line.rows_if_there("users", JUDGEMENTS, bucket, JudgingUser, runs)
    return {user_id: row.judgements for user_id, row in rows.items()}


def judging_users(judgements: Mapping[str, Sequence[Judgement]], user_ids: Iterable[str]) -> list[JudgingUser]:
    """Return the rows of those of some users who have judgements, sorted by user_id."""
    return [
        JudgingUser(user_id=each, judgements=tuple(judgements[each]))
        for each in sorted(user_ids)
        if judgements.get(each)
    ]


def _judgement(
    judgement_id: str, drafts: Group, features: Sequence[str], qualities: Sequence[float], *, is_preference: bool
) -> Judgement:
    return Judgement(
        judgement_id=judgement_id,
        input=drafts.query,
        is_preference=is_preference,
        features=tuple(features),
        drafts=tuple(
            JudgedDraft(text=each.text, plain=each.plain, quality=found)
            for each, found in zip(drafts.candidates, qualities, strict=True)
        ),
    )
