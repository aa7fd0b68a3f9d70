"""Planted preferences: people who like stories of half of the topics and dislike the others, or the other way round."""

from typing import Any

import numpy as np

from hydra_ray.config import Task
from hydra_ray.lamp.choices import Choice
from hydra_ray.rows import Query, Record, User

PREFERENCE = Task(name="stories", kind="preference", instruction="Which story does this person prefer?")
LIKED_TOGETHER = ("a pirate at sea", "a robot in space", "a murder in the fog", "a war of kings", "a bank robbery")
OTHERS = ("a wedding in spring", "a horse on a farm", "a baker and her bread", "a rose garden", "a school dance")
TOPICS = (*LIKED_TOGETHER, *OTHERS)
PLACES = ("an old road", "a green door", "a lost letter", "two brothers", "a long night", "a small town")
STORIES = tuple(f"The story of {topic} and {place}." for topic in TOPICS for place in PLACES)
ASKED = "Which story?"


def preferences(num_users: int, num_records: int, num_queries: int, seed: int, *, is_new: bool) -> list[dict[str, Any]]:
    """Rows of a users file. Which half of the topics a person likes is a coin's throw; one judgement in ten errs."""
    rng = np.random.default_rng(seed)
    return [_person(f"{seed}-{number}", num_records, num_queries, rng, is_new) for number in range(num_users)]


def _person(user_id: str, num_records: int, num_queries: int, rng: np.random.Generator, is_new: bool) -> dict[str, Any]:
    halves = [LIKED_TOGETHER, OTHERS] if rng.random() < 0.5 else [OTHERS, LIKED_TOGETHER]
    pairs = []
    for _ in range(num_records + num_queries):
        pair = [f"The story of {rng.choice(half)} and {rng.choice(PLACES)}." for half in halves]
        pairs.append(pair if rng.random() < 0.9 else pair[::-1])
    return {
        "user_id": user_id,
        "is_new": is_new,
        "history": [{"input": ASKED, "chosen": first, "rejected": second} for first, second in pairs[:num_records]],
        "queries": [{"input": ASKED, "candidates": sorted(pair), "target": pair[0]} for pair in pairs[num_records:]],
    }


def as_user(row: dict[str, Any]) -> User:
    """The user that a row is read as."""
    records = (
        Record(record_id=str(place), input=choice_text(each["chosen"], each["rejected"]), output=each["chosen"])
        for place, each in enumerate(row["history"])
    )
    queries = (
        Query(query_id=str(place), input=Choice(asked=ASKED, candidates=(*each["candidates"],)).text, target=None)
        for place, each in enumerate(row["queries"])
    )
    return User(user_id=row["user_id"], is_new=row["is_new"], history=tuple(records), queries=tuple(queries))


def choice_text(*candidates: str) -> str:
    """The input of a record with these candidates."""
    return Choice(asked=ASKED, candidates=tuple(sorted(candidates))).text
