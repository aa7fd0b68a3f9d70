"""Raters of items in a run and its updates, made up: what pleases everybody, and what half of them like more."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from builders import encode

from hydra_ray.adapt.label_model import LabelModel, fit_label_model
from hydra_ray.adapt.own_labels import encoded_items, fit_own_users, own_fold
from hydra_ray.adapt.own_model import OwnModel, fit_own_model
from hydra_ray.adapt.own_records import own_records
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Record, User, UserLabelLogs
from hydra_ray.scorer.linear.shared import NUM_USER_FOLDS

RATING = TASKS["LaMP_3"]
ITEMS = tuple(letter * 3 + other for letter in "abcdefgh" for other in "klmnpqrstuvw")
NUM_FIRST = 14

Rule = Callable[[int], int]
"""What a rating of 1 to 5 becomes."""


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a run has learned, and its users."""

    users: tuple[User, ...]
    labels: LabelModel
    model: OwnModel

    def rows(self, users: Sequence[User]) -> dict[str, UserLabelLogs]:
        """The users' rows of the table of label log probabilities."""
        vectors = encoded_items(RATING, users, encode)
        return {row.user_id: row for row in fit_own_users(RATING, users, self.labels, self.model, vectors).rows}


def raters(names: Iterable[str], num_records: int, *, is_new: bool = False, dates: bool = False) -> list[User]:
    """Users who like the items of a and b more than the others do those of c, or the other way round."""
    users: list[User] = []
    for name in names:
        rng = np.random.default_rng([*name.encode()])
        taste = rng.choice([-1.0, 1.0])
        chosen = rng.permutation(ITEMS)[:num_records]
        means = [
            3 + 1.2 * (each[0] in "aceg") - 1.2 * (each[0] in "bdfh") + taste * (each[0] in "ab") for each in chosen
        ]
        stars = np.clip(np.round(means + rng.normal(size=num_records) * 0.6), 1, 5).astype(int).tolist()
        history = tuple(
            Record(record_id=str(place), input=str(item), output=str(rating), date=place if dates else None)
            for place, (item, rating) in enumerate(zip(chosen, stars, strict=True))
        )
        users.append(User(user_id=name, is_new=is_new, history=history, queries=()))
    return users


def beginning(users: Sequence[User], num_records: int = NUM_FIRST) -> list[User]:
    """The users with their first records alone."""
    return [replace(user, history=user.history[:num_records]) for user in users]


def with_rule(users: Sequence[User], rule: Rule, num_kept: int = NUM_FIRST) -> list[User]:
    """The users with other ratings after the first records."""
    return [
        replace(
            user,
            history=tuple(
                each if place < num_kept else replace(each, output=str(rule(int(each.output))))
                for place, each in enumerate(user.history)
            ),
        )
        for user in users
    ]


def taught_by(users: Sequence[User]) -> Taught:
    """What a run of these users learns."""
    labels = fit_label_model(RATING, users, encode)
    vectors = encoded_items(RATING, users, encode)
    records = own_records(RATING, users, labels.text, vectors, own_fold)
    model = fit_own_model(RATING, records, NUM_USER_FOLDS, seed=0)
    return Taught(users=tuple(users), labels=labels, model=model)
