import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from hydra_ray.config import PlantedConfig
from hydra_ray.lamp.planted import CLEAR_PREFERENCE, preference, write_planted
from hydra_ray.lamp.tasks import PLANTED_LABELS, TASKS

CONFIG = PlantedConfig(num_train_users=30, num_new_users=20, num_records=23, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("planted")
    write_planted(CONFIG, path)
    return path


def _samples(folder: Path, split: str):
    """(ranking, [(description, label) of the history], (description, label) of the query) of each user."""
    questions = json.loads((folder / f"{split}_questions.json").read_text())
    golds = json.loads((folder / f"{split}_outputs.json").read_text())["golds"]
    targets = {gold["id"]: gold["output"] for gold in golds}
    for index, sample in enumerate(questions):
        history = [(record["description"], record["tag"]) for record in sample["profile"]]
        query = (TASKS["planted"].bare_input(sample["input"]), targets[sample["id"]])
        yield preference(CONFIG, split, index), history, query


def _topics(description: str) -> list[str]:
    return [label for label in PLANTED_LABELS if label in description]


@pytest.mark.parametrize(("split", "num_users"), [("train", 30), ("dev", 20)])
def test_every_label_is_the_one_that_the_user_prefers_of_the_two_mentioned(folder, split, num_users):
    samples = list(_samples(folder, split))
    assert len(samples) == num_users
    for ranking, history, query in samples:
        assert len(history) == CONFIG.num_records
        for description, label in [*history, query]:
            topics = _topics(description)
            assert len(topics) == 2
            assert label == min(topics, key=ranking.index)


def test_labels_are_drawn_evenly_from_all_that_are_clearly_preferred_to_others(folder):
    places = Counter(ranking.index(label) for ranking, history, _ in _samples(folder, "train") for _, label in history)
    num_places = len(PLANTED_LABELS) - CLEAR_PREFERENCE
    expected = CONFIG.num_train_users * CONFIG.num_records / num_places
    assert set(places) == set(range(num_places))
    assert sum((count - expected) ** 2 / expected for count in places.values()) < 34  # chi-square, 9 degrees: p = 1e-4


def test_only_topics_that_are_liked_differently_meet(folder):
    for ranking, history, query in _samples(folder, "train"):
        for description, _ in [*history, query]:
            first, second = (ranking.index(topic) for topic in _topics(description))
            assert abs(first - second) >= CLEAR_PREFERENCE


def test_topics_that_are_neighbours_are_liked_alike():
    rankings = [preference(CONFIG, "train", index) for index in range(200)]
    for place, topic in enumerate(PLANTED_LABELS):
        near, far = PLANTED_LABELS[place - 1], PLANTED_LABELS[place - 6]
        for ranking in rankings:
            assert abs(ranking.index(topic) - ranking.index(near)) <= 2
        assert sum(abs(r.index(topic) - r.index(far)) for r in rankings) / len(rankings) > 4


def test_preferences_differ_between_users_and_depend_on_seed_split_and_index_only():
    larger = CONFIG.model_copy(update={"num_train_users": 9, "num_records": 5})
    assert preference(larger, "train", 4) == preference(CONFIG, "train", 4)
    assert preference(CONFIG.model_copy(update={"seed": 4}), "train", 4) != preference(CONFIG, "train", 4)
    rankings = [preference(CONFIG, split, index) for split in ("train", "dev") for index in range(200)]
    assert all(sorted(ranking) == sorted(PLANTED_LABELS) for ranking in rankings)
    for first, second in combinations(PLANTED_LABELS, 2):
        share = sum(ranking.index(first) < ranking.index(second) for ranking in rankings) / len(rankings)
        assert 0.4 < share < 0.6


def test_neither_order_nor_wording_gives_the_label_away(folder):
    pairs = [pair for _, history, _ in _samples(folder, "train") for pair in history]
    is_first = [label == min(_topics(description), key=description.index) for description, label in pairs]
    assert 0.42 < sum(is_first) / len(is_first) < 0.58
    assert len({description for description, _ in pairs}) > 0.7 * len(pairs)


def test_the_same_configuration_gives_the_same_bytes(folder, tmp_path):
    write_planted(CONFIG, tmp_path)
    for path in sorted(folder.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
