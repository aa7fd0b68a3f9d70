"""What histories tell: planted tastes are found, and the same labels dealt out among users are not."""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import encode
from planted_preferences import STORIES, preferences

from hydra_ray.cli import main
from hydra_ray.commands.init.configuration_text import GeneratorChoice
from hydra_ray.commands.init.initialize import Wishes
from hydra_ray.commands.worth.held_out import OWN, RECORDS, TEXT
from hydra_ray.commands.worth.label_shares import label_shares
from hydra_ray.commands.worth.worth import Worth, worth
from hydra_ray.commands.worth.worth_text import worth_lines
from hydra_ray.commands.worth.writing_style import writing_style
from hydra_ray.errors import HydraError, InputError
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Record, User

ITEMS = [letter * 3 + other for letter in "abcdefgh" for other in "pqr"]
Row = dict[str, Any]


def rated(num_users: int = 40, num_records: int = 12, seed: int = 0) -> list[Row]:
    """Ratings by users half of whom like the items that the others dislike; some items please all a little."""
    chance = random.Random(seed)
    rows = list[Row]()
    for user in range(num_users):
        taste = chance.choice([-1.5, 1.5])
        for item in chance.sample(ITEMS, num_records):
            mean = 3 + taste * (1 if item[0] in "abcd" else -1) + 0.5 * (item[0] in "ae")
            stars = min(max(round(chance.gauss(mean, 0.7)), 1), 5)
            rows.append({"user_id": f"u{user}", "input": item, "stars": stars})
    return rows


def dealt_out(rows: Sequence[Row], column: str, seed: int = 1) -> list[Row]:
    """The same with every item's labels dealt out among the users who have it."""
    chance = random.Random(seed)
    by_item: dict[str, list[Any]] = {}
    for row in rows:
        by_item.setdefault(row["input"], []).append(row[column])
    for labels in by_item.values():
        chance.shuffle(labels)
    return [{**row, column: by_item[row["input"]].pop()} for row in rows]


def written(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def told(path: Path, max_users: int = 1000, **given: Any) -> Worth:
    generator = GeneratorChoice(endpoint=None, model=None, encoder=None, has_gpu=False)
    wishes = Wishes(users=[str(path)], columns={}, generator=generator, **given)
    return worth(wishes, max_users, lambda _: encode)


def test_planted_tastes_are_personal_with_an_interval_above_zero(tmp_path: Path):
    found = told(written(tmp_path / "rated.csv", rated()))
    assert (found.kind, found.verdict) == ("rating", "personal")
    assert found.held_out is not None
    gain = found.held_out.gain(OWN, TEXT)
    assert gain.loss.low is not None
    assert gain.loss.low > 0.1
    assert gain.quality.low is not None
    assert gain.quality.low > 0.02
    assert (found.held_out.num_users, found.held_out.num_records) == (40, 40 * 12)
    assert "PERSONAL: expect 1 - error / range +0." in "\n".join(worth_lines(found))


@pytest.mark.parametrize("seed", range(2))
def test_the_same_labels_dealt_out_among_users_show_nothing_personal(tmp_path: Path, seed: int):
    found = told(written(tmp_path / "dealt.csv", dealt_out(rated(), "stars", seed)))
    assert (found.verdict, found.expected) == ("nothing personal can be shown", "none")
    assert found.held_out is not None
    for name in (OWN, RECORDS):
        assert found.held_out.gain(name, TEXT).loss.low is not None
        assert (found.held_out.gain(name, TEXT).loss.low or 0) <= 0
    assert "NOTHING PERSONAL CAN BE SHOWN" in "\n".join(worth_lines(found))


def test_planted_preferences_are_personal_and_turned_round_by_chance_they_are_not(tmp_path: Path):
    people, chance = preferences(40, 12, 0, 7, is_new=True), random.Random(2)
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps({**each, "queries": []}) + "\n" for each in people))
    found = told(path)
    assert (found.kind, found.verdict) == ("preference", "personal")
    assert found.held_out is not None
    assert (found.held_out.gain(OWN, TEXT).quality.low or 0) > 0.1
    assert found.held_out.systems[0].loss.value == pytest.approx(np.log(2))
    assert found.amount.num_inputs <= len(STORIES)
    assert "any candidate" in "\n".join(worth_lines(found))
    for record in (record for each in people for record in each["history"]):
        if chance.random() < 0.5:
            record["chosen"], record["rejected"] = record["rejected"], record["chosen"]
    path.write_text("".join(json.dumps({**each, "queries": []}) + "\n" for each in people))
    assert told(path).verdict == "nothing personal can be shown"


def labelled(counts: Sequence[Sequence[str]]) -> list[User]:
    return [
        User(
            user_id=f"u{place}",
            is_new=True,
            history=tuple(Record(record_id=str(n), input=f"i{n}", output=label) for n, label in enumerate(own)),
            queries=(),
        )
        for place, own in enumerate(counts)
    ]


def test_users_of_one_label_each_are_explained_in_full_but_for_chance():
    users = labelled([["comedy"] * 40 if place % 2 else ["romance"] * 40 for place in range(50)])
    found = label_shares(TASKS["planted"], users)
    assert found.other_majority.value == 0.5
    assert found.other_majority_by_chance < 0.5
    assert 0.95 < found.explained.value < 1
    assert found.p_value == pytest.approx(1 / 201)


def test_users_alike_explain_nothing_and_their_interval_says_so():
    chance = random.Random(5)
    users = labelled([[chance.choice(["comedy", "romance", "fantasy"]) for _ in range(5)] for _ in range(200)])
    found = label_shares(TASKS["planted"], users)
    assert found.explained.low is not None
    assert found.explained.high is not None
    assert found.explained.low < 0 < found.explained.high
    assert found.other_majority.value == pytest.approx(found.other_majority_by_chance, abs=0.12)
    assert found.p_value > 0.01


def letters(is_own: bool, num_users: int = 40, seed: int = 3) -> list[Row]:
    """Texts of users with a length and words of their own, or of everybody's."""
    chance = random.Random(seed)
    rows = list[Row]()
    for user in range(num_users):
        own = [f"{chance.choice('bcdfg')}{place}{user}" for place in range(12)]
        for place in range(6):
            words = own if is_own else [f"w{chance.randrange(400)}" for _ in range(12)]
            length = (user % 8 + 3) if is_own else chance.randrange(3, 11)
            body = " ".join(chance.choice(words) for _ in range(length))
            rows.append({"user_id": f"u{user}", "input": f"What of {user} {place}?", "reply": f"Well {body} {place}"})
    return rows


def test_own_words_and_lengths_of_texts_are_personal(tmp_path: Path):
    found = told(written(tmp_path / "mail.csv", letters(is_own=True)))
    assert (found.kind, found.verdict, found.expected) == ("text", "personal", "style")
    assert found.held_out is None
    assert found.style is not None
    traits = {each.name: each for each in found.style}
    assert traits["length"].value.value > 0.9
    assert traits["words"].is_above_zero
    assert "Not told" in "\n".join(worth_lines(found))


@pytest.mark.parametrize("seed", range(3))
def test_texts_of_everybody_show_nothing_personal(tmp_path: Path, seed: int):
    found = told(written(tmp_path / "mail.csv", letters(is_own=False, seed=seed)))
    assert (found.verdict, found.expected) == ("nothing personal can be shown", "none")


def test_the_share_of_variance_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    means = rng.normal(size=400)
    users = [
        replace(
            each,
            history=tuple(
                replace(r, output="w " * round(np.exp(2 + 0.5 * mean + 0.5 * rng.normal()))) for r in each.history
            ),
        )
        for each, mean in zip(labelled([["x"] * 8] * 400), means, strict=True)
    ]
    length = next(each for each in writing_style(users) if each.name == "length")
    assert length.value.value == pytest.approx(0.5, abs=0.08)


def test_rows_of_users_need_no_queries_and_targets_are_not_read(tmp_path: Path):
    by_user: dict[str, list[Row]] = {}
    for row in rated(num_users=12, num_records=4):
        by_user.setdefault(row["user_id"], []).append({"input": row["input"], "output": str(row["stars"])})
    rows = [{"user_id": name, "history": own} for name, own in by_user.items()]
    rows[0]["queries"] = [{"input": "never", "target": "5"}]
    path = tmp_path / "u.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = told(path)
    assert found.held_out is not None
    assert (found.amount.num_users, found.amount.num_records, found.amount.is_whole) == (12, 48, True)
    assert found.amount.num_inputs == len({each["input"] for own in by_user.values() for each in own})


def test_more_users_than_asked_for_are_sampled_and_it_is_said(tmp_path: Path):
    path = written(tmp_path / "mail.csv", letters(is_own=True, num_users=60))
    found = told(path, max_users=20)
    assert (found.amount.num_users, found.amount.num_users_read, found.amount.is_whole) == (20, 60, False)
    assert "20 with records, a sample of 60 in the files" in "\n".join(worth_lines(found))


def test_too_few_users_are_told_as_such(tmp_path: Path):
    found = told(written(tmp_path / "few.csv", rated(num_users=4)))
    assert found.verdict == "too little data"
    assert "nothing can be told of fewer than 10" in "\n".join(worth_lines(found))


def test_many_malformed_users_are_an_error_with_the_reasons(tmp_path: Path):
    rows = [{"user_id": f"u{place}", "input": "it", "output": label} for place in range(40) for label in ("a", "b")]
    path = written(
        tmp_path / "x.csv", [{**row, "output": "other"} if n % 4 == 0 else row for n, row in enumerate(rows)]
    )
    with pytest.raises(InputError, match="users are malformed: "):
        told(path, labels=["a", "b"])


@pytest.mark.parametrize("content", [b"", b"a\n1\n2\n", b"<html>", b'{"user_id": "a", "inp'])
def test_files_of_which_nothing_can_be_made_are_told_in_a_sentence(tmp_path: Path, content: bytes):
    path = tmp_path / "odd"
    path.write_bytes(content)
    with pytest.raises(HydraError, match=r"[a-z]{4}"):
        told(path)


def test_the_command_prints_lines_or_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = str(written(tmp_path / "mail.csv", letters(is_own=True)))
    assert main(["worth", "--users", path]) == 0
    assert "PERSONAL: users' texts differ in" in capsys.readouterr().out
    assert main(["worth", "--users", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["kind"], document["amount"]["num_users"]) == ("personal", "text", 40)
    assert main(["worth", "--users", str(tmp_path / "missing.csv")]) == 2
    assert "missing.csv" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
