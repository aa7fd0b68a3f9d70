"""No error and no log line quotes what users wrote, whatever is wrong with the file that holds it."""

import json
import logging
import random
import traceback
from collections import Counter
from pathlib import Path

import pytest
from file_mutations import MARK, SEEDS, mutated, told_of

from hydra_ray.errors import InputError
from hydra_ray.lamp.lamp_files import read_samples
from hydra_ray.lamp.users import ingest


@pytest.mark.parametrize("name", SEEDS)
def test_mutated_files_give_hydra_errors_and_reasons_without_a_word_of_the_users(name, tags, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    chance = random.Random(name)
    outcomes: Counter[str] = Counter()
    for _ in range(60):
        outcome, messages = told_of(tags, tmp_path, name, mutated(SEEDS[name], chance))
        outcomes[outcome] += 1
        assert not any(MARK in message for message in messages)
    assert MARK not in caplog.text
    assert outcomes.total() == 60
    assert outcomes["error"] + outcomes["rejected"] > 0


def test_a_missing_comma_in_a_lamp_file_is_told_by_byte_line_and_kind(tags, tmp_path):
    profile = [{"id": str(n), "text": f"{MARK} {n}", "tag": "comedy"} for n in range(5000)]
    samples = [{"id": str(n), "input": f"Which tag? text: {MARK}", "profile": profile} for n in range(3)]
    text = json.dumps(samples, indent=0)
    place = text.index("}", len(text) // 2)
    assert text[place + 1] == ","
    broken = text[: place + 1] + text[place + 2 :]
    (tmp_path / "dev_questions.json").write_text(broken)
    with pytest.raises(InputError) as caught:
        list(read_samples(tags, str(tmp_path), "dev", is_new=True))
    message = str(caught.value)
    byte = broken.index("{", place)
    assert (
        f"at byte {byte}, line {broken[:byte].count(chr(10)) + 1} (after array element, I expect ',' or ']')" in message
    )
    assert MARK not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "content",
    ['{"a": "%s", }', '[{"id": "%s" "b": 1}]', '["%s\udc00"]', '[{"%s": tru}]', '["%s', "[1, 2] %s", "%s", '["\\x%s"]'],
)
def test_json_errors_never_quote_the_file(tags, tmp_path, content):
    (tmp_path / "dev_questions.json").write_bytes((content % MARK).encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as caught:
        list(read_samples(tags, str(tmp_path), "dev", is_new=True))
    assert MARK not in "".join(traceback.format_exception(caught.value))


def test_the_commonest_reason_comes_first_with_its_count_and_place(make_config, stage, tags, tmp_path):
    row = {"user_id": "", "history": [], "queries": [{"input": MARK, "target": "comedy"}]}
    rows = [{**row, "user_id": f"u{n}", "history": [{"id": n, "input": MARK, "output": MARK}]} for n in range(118)]
    rows += [{**row, "user_id": f"v{n}", "history": None} for n in range(2)]
    rows += [{**row, "user_id": f"w{n}", "is_new": n % 2 == 0} for n in range(10)]
    random.Random(0).shuffle(rows)
    path = tmp_path / "users.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = make_config({"task": tags.model_dump(), "users_files": [str(path)]})
    with pytest.raises(InputError) as caught:
        ingest(config, stage)
    message = str(caught.value)
    assert "rejected 120 of 130 samples" in message
    first = next(place for place, each in enumerate(rows) if each["user_id"].startswith("u"))
    number = rows[first]["history"][0]["id"]
    reason = f"118 x the output of record '{number}' is not a label of tags (first at position {first} of {path}); 2 x "
    assert reason in message
    assert MARK not in message


def test_a_stage_whose_parts_are_there_tells_the_same_reasons_again(make_config, stage, tags, tmp_path):
    rows = [
        {"user_id": f"u{n}", "history": None if n < 3 else [], "queries": [], "is_new": n % 2 == 0} for n in range(9)
    ]
    path = Path(tmp_path / "users.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    lamp = {"task": tags.model_dump(), "users_files": [str(path)]}
    ingest(make_config(lamp, max_rejected_fraction=0.5), stage)
    with pytest.raises(InputError, match=r"rejected 3 of 9 samples.*3 x history is missing"):
        ingest(make_config(lamp, max_rejected_fraction=0.1), stage)
