"""Columns of users' own files under the names that they have there: rows are read with the names that are ours."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from hydra_ray.config import ColumnsConfig

_LISTS = ("history", "queries")

Row = Mapping[str, Any]
_Sources = Mapping[str, tuple[str, ...]]
"""Names in a file by our name, where they are other ones; none of a column that is left out."""


def renaming_of(columns: ColumnsConfig) -> Callable[[Row], Row] | None:
    """Return the function that gives the fields of a row, and of the records and queries in it, our names; None where
    they are ours already."""
    sources = _sources(columns)
    return (lambda row: _renamed(row, sources)) if sources else None


def known_names(columns: ColumnsConfig, names: Collection[str]) -> set[str]:
    """Return our names of the columns of a file that has columns of these names."""
    return {*_renamed(dict.fromkeys(names, ""), _sources(columns))}


def _sources(columns: ColumnsConfig) -> _Sources:
    given: dict[str, Any] = {name: getattr(columns, name) for name in ColumnsConfig.model_fields}
    listed = {name: (each,) if isinstance(each, str) else tuple[str, ...](each or ()) for name, each in given.items()}
    return {name: each for name, each in listed.items() if each != (name,)}


def _renamed(row: Row, sources: _Sources) -> Row:
    taken = {each for names in sources.values() for each in names}
    found = {name: value for name, value in row.items() if name not in sources and name not in taken}
    for name, names in sources.items():
        present = [row[each] for each in names if each in row]
        if present:
            found[name] = present[0] if len(names) == 1 else _joined(present)
    for name in _LISTS:
        if name in found:
            found[name] = _renamed_inside(found[name], sources)
    return found


def _renamed_inside(value: object, sources: _Sources) -> object:
    """Rename the fields of the objects in a list, or of an object of lists."""
    if isinstance(value, Mapping):
        return _renamed_lists(cast(Row, value), sources)
    if not isinstance(value, list):
        return value
    rows = cast(list[object], value)
    return [_renamed(cast(Row, each), sources) if isinstance(each, Mapping) else each for each in rows]


def _renamed_lists(columns: Row, sources: _Sources) -> Row:
    lists = [cast(list[object], each) for each in columns.values() if isinstance(each, list)]
    if len(lists) < len(columns) or len({len(each) for each in lists}) != 1:
        return columns  # whoever reads it says what is wrong with it
    places = range(len(lists[0]))
    rows = [_renamed({name: each[place] for name, each in columns.items()}, sources) for place in places]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _joined(cells: list[Any]) -> Any:
    """Return several cells as one text, a line each, without empty ones; a cell alone stays what it is."""
    filled = [each for each in cells if each is not None and each != ""]
    if len(filled) < 2:
        return filled[0] if filled else None
    return "\n".join(str(each) for each in filled)
