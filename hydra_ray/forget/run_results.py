"""Removal of users from results derived from answers: prediction files, reports and their pages."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.evaluate.metrics_file import REPORT_ANEW, read_report
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.lamp.lamp_files import user_id_of
from hydra_ray.lamp.predictions import official_predictions, read_predictions
from hydra_ray.rows import Prediction, arrow_schema
from hydra_ray.stages.answers import PREDICTIONS_TABLE

_OF_ONE_USER = "pseudo-queries of the user"
"""What stands in a reason of the gate that has figures of one user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Data of users in files that do not name the owner."""

    user_ids: Set[str]
    prediction_ids: Mapping[str, Sequence[str]]
    """User ids by the ids that their queries may have in prediction files without a table beside them."""
    answers: Mapping[str, Set[str]]
    """Answers of the personalized system by the same ids."""
    reasons: Mapping[str, Set[str]]
    """Reasons of the gate's choices for a user's queries that contain figures of the user, as those of earlier versions
    do, by user_id."""


def traces_of(rows: Iterable[Mapping[str, Any]]) -> Traces:
    """Return the traces of users.

    Args:
        rows: the users' rows of the users and answers tables of all runs.
    """
    owners: defaultdict[str, dict[str, None]] = defaultdict(dict)
    answers: defaultdict[str, set[str]] = defaultdict(set)
    reasons: defaultdict[str, set[str]] = defaultdict(set)
    user_ids: set[str] = set()
    for row in rows:
        user_id = row["user_id"]
        user_ids.add(user_id)
        for query in row["queries"]:
            for name in prediction_ids(user_id, query["query_id"]):
                owners[name][user_id] = None
                answers[name].update(
                    each["value"] for each in query.get("answers", ()) if each["system"] == "hydra" and each["value"]
                )
            if _OF_ONE_USER in (query.get("reason") or ""):
                reasons[user_id].add(query["reason"])
    prediction_owners = {name: tuple(found) for name, found in owners.items()}
    return Traces(user_ids=user_ids, prediction_ids=prediction_owners, answers=answers, reasons=reasons)


def prediction_ids(user_id: str, query_id: str) -> Iterator[str]:
    """Yield the ids that a query may have in prediction files without a table beside them: with the user's id for own
    users, alone for LaMP's."""
    yield f"{user_id}/{query_id}"
    if user_id.endswith(user_id_of("", query_id)):
        yield query_id


def find_in_predictions(location: str, traces: Traces) -> Counter[str]:
    """Return the number of predictions per user in a file."""
    return Counter(_owned(location, read_predictions(location)[1], traces).values())


def drop_predictions(location: str, traces: Traces) -> None:
    """Rewrite a prediction file without these users."""
    task_name, predictions = read_predictions(location)
    owned = _owned(location, predictions, traces)
    kept = (each for place, each in enumerate(predictions) if place not in owned)
    official_predictions(task_name, kept, location)


def _owned(location: str, predictions: Sequence[tuple[str, str]], traces: Traces) -> dict[int, str]:
    """Return the owners of those predictions of a file that are of these users, by their places in it."""
    table = storage.join(location.rpartition("/")[0], PREDICTIONS_TABLE)
    if not storage.exists(table):
        return _owned_by_ids(predictions, traces)
    owners = {
        row["prediction_id"]: row["user_id"]
        for group in storage.read_row_groups(table, arrow_schema(Prediction), ["prediction_id", "user_id"])
        for row in group.to_pylist()
        if row["user_id"] in traces.user_ids
    }
    return {place: owners[name] for place, (name, _) in enumerate(predictions) if name in owners}


def _owned_by_ids(predictions: Sequence[tuple[str, str]], traces: Traces) -> dict[int, str]:
    """Return the owners of predictions that no table tells: files of earlier versions.

    An id with two slashes may be another user's too. Then as many predictions are taken as there are owners, those
    that give the owners' answers; where none does, all are, since one of them holds an owner's answer.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, (name, _) in enumerate(predictions):
        if name in traces.prediction_ids:
            places[name].append(place)
    owned: dict[int, str] = {}
    for name, found in places.items():
        owners = traces.prediction_ids[name]
        if name.count("/") > 1:
            given = traces.answers.get(name, frozenset())
            theirs = [place for place in found if predictions[place][1] in given][: len(owners)] or found
        else:
            theirs = found
        owned |= {place: owners[min(number, len(owners) - 1)] for number, place in enumerate(theirs)}
    return owned


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
