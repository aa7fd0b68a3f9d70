"""Predictions in LaMP's official format, which its evaluation script reads."""

import json
from collections.abc import Iterable

from hydra_ray import storage
from hydra_ray.errors import DamagedError

_ANEW = "Remove it, and the manifest.json of the answers stage, and run the configuration again: it is written anew."


def own_prediction_id(user_id: str, query_id: str) -> str:
    """Return the id of a query of users' own files: `user/query`, in which a user's `%` and `/` are escaped as in URLs,
    so that no two pairs have one id."""
    return f"{user_id.replace('%', '%25').replace('/', '%2F')}/{query_id}"


def official_predictions(task_name: str, answers: Iterable[tuple[str, str]], location: str) -> int:
    """Write {"task": ..., "golds": [{"id": ..., "output": ...}]} to `location`, atomically, one answer at a time.

    Args:
        task_name: name of the task in prediction files.
        answers: (query_id, answer) pairs.

    Returns:
        Number of answers.
    """
    num_answers = 0
    with storage.open_output(location) as file:
        file.write(f'{{"task": {json.dumps(task_name)}, "golds": ['.encode())
        for query_id, output in answers:
            separator = ",\n" if num_answers else "\n"
            entry = json.dumps({"id": query_id, "output": output}, ensure_ascii=False)
            file.write(f"{separator}{entry}".encode())
            num_answers += 1
        file.write(b"\n]}\n")
    return num_answers


def read_predictions(location: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the task's name and the (query_id, answer) pairs of a file.

    Raises:
        DamagedError: it is no such file.
    """
    content = storage.read_json(location, {"task": str, "golds": list}, _ANEW)
    if not all(isinstance(gold, dict) and {"id", "output"} <= gold.keys() for gold in content["golds"]):
        raise DamagedError(f"{location} is damaged: an entry of `golds` has no `id` or no `output`. {_ANEW}")
    return content["task"], [(gold["id"], gold["output"]) for gold in content["golds"]]
