"""Which column of a person's file is what: by its name first, and else by what is in it."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import cast

from hydra_ray.commands.init.sample import Column, FileSample, Row, column_of, names_of, nested, unread_date
from hydra_ray.config import ColumnsConfig
from hydra_ray.config.check import did_you_mean
from hydra_ray.errors import ConfigError
from hydra_ray.findings import counted

_ROWS = 2000
"""Number of rows whose values are looked at."""
# Usual names, the most telling first.
_USER = (
    "user_id user userid uid customer_id customer customerid account_id account author_id author member_id member "
    "reviewer_id reviewerid reviewer client_id client person_id person employee_id employee agent_id agent patient_id "
    "username user_name profile_id email rater_id rater annotator_id annotator judge_id judge"
)
_HISTORY = "history records profile events items past interactions examples memory"
_QUERIES = "queries query questions tests asked requests"
_HEADINGS = "subject title headline"
_BODIES = (
    "input text body content message question prompt query review reviewtext review_text description article abstract "
    "document post comment request utterance ticket_text messages conversation transcript source"
)
_OUTPUTS = (
    "output label answer response reply completion category tag class rating score stars overall grade team topic "
    "department queue intent sentiment summary genre priority type status"
)
_TARGETS = "target expected gold reference truth"
_CHOSEN = "chosen preferred winner selected accepted chosen_answer chosen_response better"
_REJECTED = "rejected dispreferred loser not_chosen rejected_answer rejected_response worse"
_CANDIDATES = "candidates options choices answers responses completions outputs"
_RATINGS = "ratings scores stars grades ranks"
_RATED = "answers responses completions outputs candidates"
_DATES = (
    "date timestamp time ts created created_at created_on createdat datetime date_time event_time posted_at "
    "unixreviewtime review_date updated_at day when"
)
_SHARE_OF_DATES = 0.9
"""Smallest share of dates that must be read for a column to be taken as the date."""
SEVERAL = "input"
"""Setting that may name several columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns are what, and what was noted about them."""

    given: Mapping[str, tuple[str, ...]]
    """Names in the file by setting of lamp.columns; none of a column that is left out."""
    is_events: bool
    notes: tuple[str, ...] = ()

    @property
    def is_preference(self) -> bool:
        """Whether records say which candidate was preferred, and not what the output is."""
        return bool(self.given.get("chosen") or self.given.get("ratings") or self.given.get("answers"))

    @property
    def setting(self) -> dict[str, str | list[str] | None]:
        """Setting lamp.columns, without what is named as by default."""
        named = {
            name: None if not each else each[0] if len(each) == 1 else [*each] for name, each in self.given.items()
        }
        return {name: each for name, each in named.items() if each != name}

    def of(self, name: str) -> str | None:
        """Name in the file of what a setting names; the last of several."""
        return self.given[name][-1] if self.given.get(name) else None


def guess_columns(
    sample: FileSample, chosen: Mapping[str, tuple[str, ...]], *, may_be_preference: bool = True
) -> Columns:
    """Return which column is what.

    Args:
        chosen: names in the file that the person gives, by setting of lamp.columns.
        may_be_preference: whether records may say what was preferred, and need no output then.

    Raises:
        ConfigError: a chosen column is not there, or it cannot be told who a row is of, or what an input or output is.
    """
    is_events = not sample.has_lists()
    rows = sample.rows[:_ROWS]
    given = {"user_id": _chosen_or(chosen, "user_id", lambda: _user_column(rows, is_events))}
    records, queries = rows, rows
    if not is_events:
        lists = [name for name in sample.names() if any(nested(row.get(name)) for row in rows)]
        given["history"] = _chosen_or(chosen, "history", lambda: _by_name(lists, _HISTORY) or lists[:1])
        others = [name for name in lists if name not in given["history"]]
        given["queries"] = _chosen_or(chosen, "queries", lambda: _by_name(others, _QUERIES) or others[:1])
        records, queries = _inside(rows, given["history"]), _inside(rows, given["queries"])
    taken = {*given["user_id"], *given.get("history", ()), *given.get("queries", ())}
    date = _chosen_or(chosen, "date", lambda: _date_column(records, taken))
    notes = _notes_on_dates(records, taken, date, chosen)
    taken |= {*date, *_by_name(names_of(records), _DATES)}
    target = _chosen_or(chosen, "target", lambda: _target_column(queries, is_events))
    preference = _preference_columns(chosen, records, queries) if may_be_preference else {}
    if preference:
        given |= preference
        given["target"] = target = chosen.get("target", tuple(_by_name(names_of(queries), _TARGETS)))
        taken |= {name for each in preference.values() for name in each} | {*target}
        # What all candidates answer may be missing, so that nothing else is taken for it.
        unnamed = [name for name in names_of(records) if name not in taken]
        given["input"] = _chosen_or(chosen, "input", lambda: _named_inputs(unnamed))
    else:
        # Records and queries of users may have their answers in columns of one name; events may not.
        given["output"] = _chosen_or(
            chosen,
            "output",
            lambda: (
                [*target]
                if not is_events and target and target[0] in names_of(records)
                else _output_column(records, {*taken, *target})
            ),
        )
        given["target"] = target
        taken |= {*target, *given["output"]}
        given["input"] = _chosen_or(chosen, "input", lambda: _input_columns(records, queries, taken))
    given["date"] = date
    inner = [] if is_events else [*records, *queries]
    _require_there(chosen, names_of([*rows, *inner]))
    _require_whole(given, rows, records, ("user_id",) if preference else ("user_id", "input", "output"))
    return Columns(given=_with_left_out(given, rows, inner, is_events), is_events=is_events, notes=notes)


def parse_choices(choices: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns that a person names by `setting=column`, or `input=subject,body`.

    Raises:
        ConfigError: one has another form, or names no setting of lamp.columns.
    """
    found: dict[str, tuple[str, ...]] = {}
    for each in choices:
        name, equals, value = each.partition("=")
        if not equals or name not in ColumnsConfig.model_fields:
            raise ConfigError(
                f"--column {each}: expected one of {', '.join(ColumnsConfig.model_fields)}, = and the name of a column"
                + did_you_mean(name, ColumnsConfig.model_fields)
            )
        found[name] = tuple(part for part in value.split(",") if part) if name == SEVERAL else (value,) * bool(value)
    return found


def _chosen_or(chosen: Mapping[str, tuple[str, ...]], name: str, guess: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    return chosen[name] if name in chosen else tuple(guess())


def _normal(name: str) -> str:
    """Return a name in lower case with words joined by `_`, CamelCase taken apart."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.casefold()).strip("_")


def _by_name(names: Collection[str], known: str) -> list[str]:
    """Return the column whose name comes first among the words of `known`, as a list; empty where none does."""
    normal = {_normal(name): name for name in reversed([*names])}
    plain = {each.replace("_", ""): name for each, name in normal.items()}
    for each in known.split():
        if each in normal or each in plain:
            return [normal.get(each) or plain[each]]
    return []


def _user_column(rows: Sequence[Row], is_events: bool) -> list[str]:
    names = [name for name in names_of(rows) if not any(nested(row.get(name)) for row in rows[:100])]
    if found := _by_name(names, _USER):
        return found
    ids = [column_of(name, rows) for name in names if _normal(name).endswith(("id", "user"))]
    if not is_events:
        ids = [each for each in ids if each.num_distinct == each.num_values == len(rows)]
        return [ids[0].name] if ids else []
    repeated = [each for each in ids if each.is_repeated() and each.num_values == len(rows) and each.num_distinct > 1]
    return [max(repeated, key=lambda each: each.num_distinct).name] if repeated else []


def _inside(rows: Sequence[Row], names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(inner for row in rows for name in names for inner in nested(row.get(name)))[:_ROWS]


def _date_column(rows: Sequence[Row], taken: Collection[str]) -> list[str]:
    columns = [column_of(name, rows) for name in names_of(rows) if name not in taken]
    read = [each.name for each in columns if each.num_values and each.num_dates >= _SHARE_OF_DATES * each.num_values]
    if found := _by_name(read, _DATES):
        return found
    # A number alone may be anything; a text that is a date is one.
    texts = [name for name in read if any(isinstance(row.get(name), str) and "-" in row[name] for row in rows[:20])]
    return texts[:1]


def _notes_on_dates(
    rows: Sequence[Row], taken: Collection[str], date: Sequence[str], chosen: Mapping[str, object]
) -> tuple[str, ...]:
    """Return what is to be known of dates that cannot be read."""
    named = [*date] or _by_name([name for name in names_of(rows) if name not in taken], _DATES)
    form = unread_date(named[0], rows) if named and "date" not in chosen else None
    if form is None:
        return ()
    what = f"the column {named[0]} has dates such as {form} (9 a digit, A a letter), which are not read"
    then = ", and reject their users" if date else ", and is left out"
    return (f"{what}{then}: write them as 2026-01-31, or as seconds since 1970",)


def _target_column(queries: Sequence[Row], is_events: bool) -> list[str]:
    names = names_of(queries)
    if found := _by_name(names, _TARGETS):
        return found
    return [] if is_events else _by_name(names, _OUTPUTS)


def _output_column(rows: Sequence[Row], taken: Collection[str]) -> list[str]:
    columns = [column_of(name, rows) for name in names_of(rows) if name not in taken]
    columns = [each for each in columns if each.is_text() and each.num_values and not _is_id(each)]
    if found := _by_name([each.name for each in columns], _OUTPUTS):
        return found
    few = [each for each in columns if 1 < each.num_distinct <= 50 and each.is_repeated()]
    if few:
        return [min(few, key=lambda each: each.num_distinct).name]
    shorter = sorted(columns, key=lambda each: each.mean_characters)
    return [shorter[0].name] if len(shorter) > 1 else []


def _preference_columns(
    chosen: Mapping[str, tuple[str, ...]], records: Sequence[Row], queries: Sequence[Row]
) -> dict[str, tuple[str, ...]]:
    """Return the columns of records that say what was preferred; none where they do not."""
    names = names_of(records)
    lists = [name for name in names_of([*records, *queries]) if _is_list_of_texts(name, [*records, *queries])]
    candidates = _chosen_or(chosen, "candidates", lambda: _by_name(lists, _CANDIDATES))
    best = _chosen_or(chosen, "chosen", lambda: _by_name(names, _CHOSEN))
    worse = _chosen_or(chosen, "rejected", lambda: _by_name(names, _REJECTED))
    if best and worse:
        return {"chosen": best, "rejected": worse, "candidates": candidates}
    ratings = _chosen_or(chosen, "ratings", lambda: _by_name(_lists_of_numbers(records), _RATINGS))
    if ratings and candidates:
        return {"candidates": candidates, "ratings": ratings}
    rated = [
        name
        for name in names
        if any({*each} >= {"text", "rating"} for row in records for each in nested(row.get(name)))
    ]
    answers = _chosen_or(chosen, "answers", lambda: _by_name(rated, _RATED))
    return {"answers": answers, "candidates": candidates} if answers else {}


def _is_list_of_texts(name: str, rows: Sequence[Row]) -> bool:
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    return bool(values) and all(_listed(each, str) for each in values)


def _lists_of_numbers(rows: Sequence[Row]) -> list[str]:
    values = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in names_of(rows)}
    return [name for name, own in values.items() if own and all(_listed(each, int | float) for each in own)]


def _listed(value: object, kind: type | UnionType) -> bool:
    """Return whether a value is a list, as such or as JSON, of values of a kind."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, list) and all(isinstance(each, kind) for each in cast(list[object], value))


def _input_columns(records: Sequence[Row], queries: Sequence[Row], taken: Collection[str]) -> list[str]:
    found = _inputs_of(records, taken)
    if queries is not records:
        asked = _inputs_of(queries, taken)
        found += [name for name in asked if name not in found] if not {*asked} <= {*found} else []
    return found


def _inputs_of(rows: Sequence[Row], taken: Collection[str]) -> list[str]:
    columns = [column_of(name, rows) for name in names_of(rows) if name not in taken]
    columns = [each for each in columns if each.is_text() and not _is_id(each)]
    if named := _named_inputs([each.name for each in columns]):
        return named
    return [max(columns, key=lambda each: each.mean_characters).name] if columns else []


def _named_inputs(names: Sequence[str]) -> list[str]:
    """Return the inputs that are known by their names: a heading and a body, or one of them."""
    body, heading = _by_name(names, _BODIES), _by_name(names, _HEADINGS)
    return [*heading, *(name for name in body if name not in heading)]


def _is_id(column: Column) -> bool:
    return _normal(column.name) in ("id", "uuid", "guid", "index", "idx") or _normal(column.name).endswith("_id")


def _with_left_out(
    given: Mapping[str, tuple[str, ...]], rows: Sequence[Row], inner: Sequence[Row], is_events: bool
) -> dict[str, tuple[str, ...]]:
    """Return the columns with those left out that have a setting's name by chance and are something else."""
    names = {*names_of([*rows, *inner])}
    found = {name: each for name, each in given.items() if each or name in names - {"history", "queries"}}
    kinds = {str(row["kind"]).casefold() for row in rows if row.get("kind") is not None}
    if "kind" in names and not (is_events and kinds <= {"record", "query"}):
        found["kind"] = ()
    users = given["user_id"]
    if is_events and "id" in names and users and users != ("id",):
        named = [(str(row.get(users[0])), str(row["id"])) for row in rows if row.get("id") is not None]
        if len({*named}) < len(named):
            found["id"] = ()
    return found


def _require_whole(
    given: Mapping[str, tuple[str, ...]], rows: Sequence[Row], records: Sequence[Row], needed: Sequence[str]
) -> None:
    missing = [name for name in needed if not given.get(name)]
    if not missing:
        return
    names = names_of(records) if missing[0] != "user_id" else names_of(rows)
    meanings = {"user_id": "who a row is of", "input": "what the input is", "output": "what the output is"}
    raise ConfigError(
        f"it cannot be told {meanings[missing[0]]} among the {counted(len(names), 'column')} {', '.join(names[:30])}: "
        f"give --column {missing[0]}=NAME"
    )


def _require_there(chosen: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> None:
    for setting, columns in chosen.items():
        for name in columns:
            if name not in names:
                raise ConfigError(
                    f"--column {setting}={name}: there is no such column, only {', '.join(names[:30])}"
                    + did_you_mean(name, names)
                )
