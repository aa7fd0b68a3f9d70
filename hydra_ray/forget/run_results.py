"""Removal of users from results derived from answers: prediction files, reports and their pages."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import REPORT_ANEW, read_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.lamp.lamp_files import user_id_of
from hydra_ray.lamp.predictions import official_predictions, read_predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Data of users in files that do not name the owner."""

    prediction_ids: Mapping[str, str]
    """User ids by the ids of their queries in prediction files."""
    reasons: Mapping[str, Set[str]]
    """Reasons of the gate's choices for a user's queries, which contain figures of the user, by user_id."""


def traces_of(rows: Iterable[Mapping[str, Any]]) -> Traces:
    """Return the traces of users.

    Args:
        rows: the users' rows of the users and answers tables of all runs.
    """
    ids: dict[str, str] = {}
    reasons: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        user_id = row["user_id"]
        for query in row["queries"]:
            ids.update((name, user_id) for name in prediction_ids(user_id, query["query_id"]))
            if query.get("reason"):
                reasons[user_id].add(query["reason"])
    return Traces(prediction_ids=ids, reasons=reasons)


def prediction_ids(user_id: str, query_id: str) -> Iterator[str]:
    """Yield the ids that a query may have in prediction files: with the user's id for own users, alone for LaMP's."""
    yield f"{user_id}/{query_id}"
    if user_id.endswith(user_id_of("", query_id)):
        yield query_id


def find_in_predictions(location: str, traces: Traces) -> Counter[str]:
    """Return the number of predictions per user in a file."""
    owners = (traces.prediction_ids.get(query_id) for query_id, _ in read_predictions(location)[1])
    return Counter(owner for owner in owners if owner is not None)


def drop_predictions(location: str, traces: Traces) -> None:
    """Rewrite a prediction file without these users."""
    task_name, predictions = read_predictions(location)
    kept = (each for each in predictions if each[0] not in traces.prediction_ids)
    official_predictions(task_name, kept, location)


def find_in_report(location: str, user_ids: Collection[str], traces: Traces) -> Counter[str]:
    """Return the users whose data a metrics.json contains, each counted once."""
    report = storage.read_json(location, anew=REPORT_ANEW)
    if report == without_users(report, user_ids, traces):
        return Counter()
    return Counter(each for each in user_ids if report != without_users(report, {each}, traces))


def drop_from_report(location: str, user_ids: Collection[str], traces: Traces) -> None:
    """Rewrite a metrics.json and its page without these users; averages that include them stay.

    The page is rewritten first, so that the metrics contain the users as long as the page does. The page of a report of
    another version of this package is removed.
    """
    report = without_users(storage.read_json(location, anew=REPORT_ANEW), user_ids, traces)
    folder = location.rpartition("/")[0]
    page = storage.join(folder, "report.html")
    if storage.exists(page):
        try:
            read_report(folder)
        except InputError:
            storage.remove_file(page)
        else:
            storage.write_bytes(page, render_page(report).encode())
    storage.publish_json(location, report)


def without_users(report: Any, user_ids: Collection[str], traces: Traces) -> Any:
    """Return a copy of a JSON value without the users' list entries, column values and reasons.

    An entry is a mapping with a `user_id`; columns are lists of equal length in a mapping, one of which is `user_id`.
    """
    reasons = {reason for each in user_ids for reason in traces.reasons.get(each, ())}
    return _without(report, frozenset(user_ids), frozenset(reasons))


def _without(value: Any, user_ids: Set[str], reasons: Set[str]) -> Any:
    if isinstance(value, list):
        return [_without(each, user_ids, reasons) for each in value if not _is_private(each, user_ids, reasons)]
    if not isinstance(value, dict):
        return value
    listed = value.get("user_id")
    if isinstance(listed, list):
        value = _taken(value, [place for place, each in enumerate(listed) if each not in user_ids], len(listed))
    return {name: _without(each, user_ids, reasons) for name, each in value.items()}


def _is_private(entry: Any, user_ids: Set[str], reasons: Set[str]) -> bool:
    if isinstance(entry, dict):
        owner = entry.get("user_id")
        return isinstance(owner, str) and owner in user_ids
    return isinstance(entry, str) and entry in reasons


def _taken(columns: Any, kept: list[int], length: int) -> Any:
    if isinstance(columns, dict):
        return {name: _taken(values, kept, length) for name, values in columns.items()}
    is_column = isinstance(columns, list) and len(columns) == length
    return [columns[place] for place in kept] if is_column else columns
