"""Planted-preference sample: seeded synthetic users with known hidden preferences, in LaMP's format and of any size.

Every description mentions two topics, and the label is the one that its user prefers. Labels are drawn evenly from the
topics, so that a user's label counts are nearly uninformative: only the pairs reveal the preference.
"""

import json
from math import cos, pi
from pathlib import Path
from random import Random
from typing import Any

from hydra_ray.config import PlantedConfig
from hydra_ray.lamp.tasks import PLANTED_LABELS, TASKS

CLEAR_PREFERENCE = 2
"""Smallest difference in rank of two topics in a description: between topics of similar rank a choice would be noise.
"""
TRAIN_SPLIT = "train"
NEW_SPLIT = "dev"

_PHRASES: dict[str, tuple[str, ...]] = {
    "comedy": ("a comedy of errors", "slapstick comedy", "some dry comedy", "a very funny comedy act"),
    "romance": ("a slow romance", "a summer romance", "an unlikely romance", "romance between two rivals"),
    "fantasy": ("a fantasy kingdom", "fantasy with dragons", "a dark fantasy world", "a fantasy quest"),
    "adventure": ("an adventure at sea", "a jungle adventure", "the adventure of two boys", "adventure in the desert"),
    "mystery": ("a locked-room mystery", "the mystery of a lost letter", "a small-town mystery", "an unsolved mystery"),
    "violence": ("sudden violence", "street violence", "a night of violence", "violence between two gangs"),
    "politics": ("the politics of a court", "dirty politics", "village politics", "politics and power"),
    "history": ("the history of a war", "local history", "a family history", "history seen from below"),
    "classic": ("a classic novel", "the style of a classic", "a timeless classic", "an old classic of the stage"),
    "psychology": (
        "the psychology of guilt", "a study in psychology", "psychology and memory", "crowd psychology",
    ),
    "nature": ("the nature of the north", "wild nature", "nature in winter", "nature writing"),
    "music": ("the music of a city", "folk music", "music played at night", "a life in music"),
}  # fmt: skip
_TEMPLATES = (
    "A story built on {first} and {second}.",
    "It begins with {first}, but it soon turns to {second}.",
    "Half of it is {first}; the other half is {second}.",
    "The author mixes {first} with {second}.",
    "What starts as {first} ends as {second}.",
    "Readers will find {first} here, and also {second}.",
)


def preference(config: PlantedConfig, split: str, index: int) -> tuple[str, ...]:
    """Return the hidden ranking of the topics by user `index` of a split, most preferred first.

    Topics lie on a circle, and a user prefers topics near the user's own direction. A preference is a single angle: a
    few records reveal it, and it generalizes over topics.
    """
    direction = Random(f"preference {config.seed} {split} {index}").uniform(0, 2 * pi)
    step = 2 * pi / len(PLANTED_LABELS)
    places = sorted(range(len(PLANTED_LABELS)), key=lambda place: -cos(place * step - direction))
    return tuple(PLANTED_LABELS[place] for place in places)


def planted_id(split: str, index: int) -> str:
    """Return the id of user `index` of a split, as in LaMP's files."""
    return f"{split}-{index:07d}"


def write_planted(config: PlantedConfig, folder: Path) -> None:
    """Write the sample's questions and outputs into `folder`, one user at a time."""
    for split, num_users in ((TRAIN_SPLIT, config.num_train_users), (NEW_SPLIT, config.num_new_users)):
        questions = folder / f"{split}_questions.json"
        outputs = folder / f"{split}_outputs.json"
        with questions.open("w", encoding="utf-8") as question_file, outputs.open("w", encoding="utf-8") as output_file:
            question_file.write("[")
            output_file.write(f'{{"task": {json.dumps(TASKS["planted"].prediction_name)}, "golds": [')
            for index in range(num_users):
                sample, target = _sample(config, split, index)
                separator = ",\n" if index else "\n"
                question_file.write(separator + json.dumps(sample))
                output_file.write(separator + json.dumps({"id": sample["id"], "output": target}))
            question_file.write("\n]\n")
            output_file.write("\n]}\n")


def _sample(config: PlantedConfig, split: str, index: int) -> tuple[dict[str, Any], str]:
    """Return a user in LaMP's format, and the target of the only query that the format allows."""
    random = Random(f"sample {config.seed} {split} {index}")
    ranking = preference(config, split, index)
    sample_id = planted_id(split, index)
    profile: list[dict[str, str]] = []
    for number in range(config.num_records):
        description, label = _description(random, ranking)
        profile.append({"id": f"{sample_id}-{number}", "description": description, "tag": label})
    description, target = _description(random, ranking)
    question = f"{TASKS['planted'].instruction} description: {description}"
    return {"id": sample_id, "input": question, "profile": profile}, target


def _description(random: Random, ranking: tuple[str, ...]) -> tuple[str, str]:
    """Return a sentence that mentions two topics, and its label.

    The label is drawn first, evenly from all topics that are clearly preferred to some other, so that label counts are
    nearly uninformative.
    """
    place = random.randrange(len(ranking) - CLEAR_PREFERENCE)
    topics = [ranking[place], random.choice(ranking[place + CLEAR_PREFERENCE :])]
    random.shuffle(topics)
    first, second = (random.choice(_PHRASES[topic]) for topic in topics)
    return random.choice(_TEMPLATES).format(first=first, second=second), ranking[place]
