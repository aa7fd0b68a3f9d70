"""Seeded mutations of users' files whose every text holds a mark, and what is told of each."""

import json
import random
import traceback
from pathlib import Path
from typing import Any

from own_files import EVENTS, PACKERS, arrow_file, arrow_stream, csv, lines, parquet, read, table

from hydra_ray.config import Task
from hydra_ray.errors import HydraError
from hydra_ray.lamp.lamp_files import read_samples, read_targets
from hydra_ray.rows import Rejected

MARK = "xylographer"
"""In every text of the files; ids are no texts."""
LAMP = "dev_questions.json"
_TOKENS = (
    b"", b"\0", b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"1e999", b"-", b"\n",
    b"\xff", b"\xef\xbb\xbf", b"9" * 400, b"true", b";", b"\xe9", b"[" * 200,
)  # fmt: skip
_WRONG: tuple[Any, ...] = (None, True, -1, 10**30, 1e308, [], {}, [[]], {"input": []}, "", "\ud800", b"", [None], "\0")


def _row(user_id: str) -> dict[str, Any]:
    history = [
        {"id": str(n), "input": f"{MARK} wrote", "output": "comedy", "date": 1_600_000_000 + n} for n in range(3)
    ]
    query = {"id": "q", "input": f"a {MARK} asks", "target": "romance"}
    return {"user_id": user_id, "is_new": False, "history": history, "queries": [query]}


def _seeds() -> dict[str, bytes]:
    rows = [_row("ann"), _row("bob")]
    events = [{**event, "input": f"{MARK} {event['input']}"} for event in EVENTS]
    samples = [
        {
            "id": row["user_id"],
            "input": f"Which tag? text: {MARK}",
            "profile": [{"id": each["id"], "text": each["input"], "tag": "comedy"} for each in row["history"]],
        }
        for row in rows
    ]
    return {
        LAMP: json.dumps(samples).encode(),
        "dev_outputs.json": json.dumps({"task": "t", "golds": [{"id": "ann", "output": MARK}]}).encode(),
        "users.jsonl": lines(rows),
        "users.json": json.dumps(rows).encode(),
        "users.txt": lines(rows),
        "users.parquet": parquet(table(rows)),
        "users.feather": arrow_file(table(rows)),
        "users.arrow": arrow_stream(table(rows)),
        "events.csv": csv(table(events)),
        "events.jsonl": lines(events),
        "events.parquet": parquet(table(events)),
        **{f"users.jsonl.{name}": pack(lines(rows)) for name, pack in PACKERS.items()},
    }


SEEDS = _seeds()
"""Good files by name."""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The content with bytes flipped, cut off, inserted or replaced; JSON also with values of wrong types."""
    change = chance.choice((_flip, _cut, _insert, _insert, _wrong_type))
    for _ in range(chance.randrange(1, 4)):
        content = change(content, chance)
    return content


def told_of(task: Task, folder: Path, name: str, content: bytes) -> tuple[str, list[str]]:
    """Read a file; return what came of it, and all that was told.

    Any error but a HydraError is a finding, and passes.
    """
    path = folder / name
    path.write_bytes(content)
    try:
        if name == LAMP:
            found = list(read_samples(task, str(folder), "dev", is_new=True))
        elif name == "dev_outputs.json":
            found = list(read_targets(str(folder), "dev"))
        else:
            found = read(task, path)
    except HydraError as error:
        return "error", ["".join(traceback.format_exception(error))]
    finally:
        path.unlink()
    rejected = [each for each in found if isinstance(each, Rejected)]
    told = [f"{each.reason} {each.source} {each.position}" for each in rejected]
    return ("rejected" if rejected else "accepted"), told


def _flip(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(max(len(content), 1))
    return (
        content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
        if content
        else b""
    )


def _cut(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    return content[:start] if chance.random() < 0.5 else content[:start] + content[start + chance.randrange(1, 20) :]


def _insert(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(_TOKENS) + content[place + chance.randrange(3) :]


def _wrong_type(content: bytes, chance: random.Random) -> bytes:
    """One value of the first row replaced by one of another type; other formats than JSON lines are cut instead."""
    first, end, rest = content.partition(b"\n")
    try:
        row = json.loads(first)
    except ValueError:
        return _cut(content, chance)
    places = list(_places(row))
    if not places:
        return content
    holder, key = chance.choice(places)
    holder[key] = wrong if not isinstance(wrong := chance.choice(_WRONG), bytes) else {"a": {"b": [1]}}
    return json.dumps(row).encode() + end + rest


def _places(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in ((value, key), *_places(value[key]))]
