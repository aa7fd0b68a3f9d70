"""Checks of settings as a whole, each error named by its dotted key and by what to do."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hydra_ray.config.generator import looks_secret
from hydra_ray.config.run import RunConfig
from hydra_ray.config.section import PATTERN_FORMS, Section
from hydra_ray.errors import ConfigError, shortened

_Section = TypeVar("_Section", bound=Section)
LIST_FOLLOWS = "is not a valid configuration:"
"""End of the first line of an error that lists wrong settings, one a line."""
_TAG = re.compile(r"<.*>")
"""Tags of the ways to give a setting, and other steps that are no keys of YAML."""
_KEY = "[key]"
_EXPECTS = ", expected "
_MAX_SHOWN = 60
_MAX_MESSAGE = 600
_LARGEST = 2**63
"""Bound of whole numbers: they become seeds, and numbers in JSON and Arrow."""
_MAX_PLACES = 3
_QUOTE = "YAML reads words such as yes, no, on and null, and numbers, as no text: quote it"


def check_config(settings: Mapping[str, Any], source: str) -> RunConfig:
    """Return `settings` as the checked configuration of a run.

    Raises:
        ConfigError: naming every wrong setting and `source`.
    """
    return check_settings(RunConfig, settings, source)


def check_settings(section: type[_Section], settings: Mapping[str, Any], source: str) -> _Section:
    """Return `settings` as a checked section.

    Raises:
        ConfigError: naming every wrong setting and `source`.
    """
    # A file that somebody edited may hold anything.
    if not isinstance(settings, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{source} must be a mapping of settings, got {kind_of(settings)}")
    wrong = dict(_wrong_numbers(section, settings))
    try:
        checked = section.model_validate(settings)
    except ValidationError as error:
        found: dict[str, list[str]] = {}
        for each in error.errors():
            place = _place(each["loc"], settings)
            found.setdefault(_name_of(place), []).append(_what_is_wrong(section, place, each))
        wrong |= {name: _together(each) for name, each in found.items()}
        raise ConfigError(_listed(source, wrong)) from error
    if wrong:
        raise ConfigError(_listed(source, wrong))
    return checked


def _together(ways: Sequence[str]) -> str:
    """Return what is wrong with a setting by each of the ways to give it."""
    got = [way.partition(_EXPECTS)[0] for way in ways]
    if any(_EXPECTS not in way or each != got[0] for way, each in zip(ways, got, strict=True)):
        return ways[-1]  # the most general
    expected = list(dict.fromkeys(way.partition(_EXPECTS)[2] for way in ways))
    # A whole number is one.
    wider = [each for each in expected if not (each == _WHOLE({}) and _NUMBER({}) in expected)]
    return f"{got[0]}{_EXPECTS}{' or '.join(wider)}"


def _listed(source: str, wrong: Mapping[str, str]) -> str:
    lines = [f"  {name or '(whole)'}: {what}" for name, what in wrong.items()]
    return f"{source} {LIST_FOLLOWS}\n" + "\n".join(lines)


def _wrong_numbers(
    section: type[BaseModel], settings: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the names of numbers that pydantic would take and nobody can mean, and what is wrong with them."""
    for name, field in section.model_fields.items():
        value = settings.get(name)
        inner = section_of(section, name)
        if inner is not None and isinstance(value, Mapping):
            yield from _wrong_numbers(inner, cast(Mapping[str, Any], value), (*above, name))
        elif (kinds := {*_kinds(field.annotation)}) & {int, float} and not kinds & {bool, Any}:
            for each in _elements(value):
                if isinstance(each, bool):
                    yield _name_of((*above, name)), f"got {shown(each)}, expected a number"
                elif isinstance(each, int) and abs(each) >= _LARGEST:
                    yield _name_of((*above, name)), "got a number beyond 64 bits, expected a smaller one"


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for each in inner:
        yield from _kinds(each)


def _elements(value: Any) -> Iterable[Any]:
    """Return what a list or a mapping holds; of anything else, itself."""
    if isinstance(value, Mapping):
        return cast(Mapping[Any, Any], value).values()
    return cast(Iterable[Any], value) if isinstance(value, list | tuple) else (value,)


def kind_of(value: object) -> str:
    """Return what a value is, in YAML's words."""
    if value is None or isinstance(value, bool | int | float):
        return shown(value)
    if isinstance(value, str):
        return "a text"
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else "no YAML"


def shown(value: object) -> str:
    """Return a value as it would be written in YAML, cut where it is long."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        if looks_secret(value):
            return "what looks like a secret"
        return repr(shortened(value, _MAX_SHOWN))
    return kind_of(value)


def _is_word(value: str) -> bool:
    return len(value) <= _MAX_SHOWN and value.isprintable() and value != "" and not looks_secret(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the known name that is most like `name`, with a semicolon before it; empty without one."""
    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name[:_MAX_SHOWN].casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]}?" if close else ""


def _place(location: tuple[int | str, ...], settings: object) -> tuple[int | str, ...]:
    """Return the keys that lead to a setting, without the tags and types of a choice."""
    place: list[int | str] = []
    for part in location:
        if part == _KEY or (isinstance(part, str) and _TAG.fullmatch(part)):
            continue
        if isinstance(settings, Mapping):
            settings = cast(Mapping[Any, object], settings).get(part)
        elif isinstance(settings, list | tuple) and isinstance(part, int):
            settings = cast(Sequence[object], settings)[part]
        else:
            break
        place.append(part)
    return tuple(place)


def _name_of(place: tuple[int | str, ...]) -> str:
    return ".".join(shortened(str(part), _MAX_SHOWN) for part in place)


def _what_is_wrong(section: type[BaseModel], place: tuple[int | str, ...], error: ErrorDetails) -> str:
    given, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown(section, place)
        case "missing":
            return "it is missing"
        case "value_error":
            return shortened(str(context["error"]), _MAX_MESSAGE)
        case "string_type" if given is None or isinstance(given, bool | int | float):
            what = f"text; {_QUOTE}"
        case "literal_error":
            names = re.findall(r"'([^']*)'", context["expected"])
            what = " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
            what += did_you_mean(given, names) if isinstance(given, str) else ""
        case "tuple_type" | "list_type" if isinstance(given, str) and _is_word(given):
            what = f"a list: write [{given}]"
        case "string_pattern_mismatch" | "string_too_short" | "string_too_long" as kind:
            # Somebody may have put a secret in the place of a name.
            return f"expected {_EXPECTED[kind](context)}"
        case kind:
            what = _EXPECTED[kind](context) if kind in _EXPECTED else "something else"
    return f"got {shown(given)}{_EXPECTS}{what}"


def _pattern(context: Mapping[str, Any]) -> str:
    return PATTERN_FORMS.get(context["pattern"], f"text of the form {context['pattern']}")


def _always(expected: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _: expected


_WHOLE, _NUMBER, _TRUTH, _TEXT = (
    _always("a whole number"),
    _always("a number"),
    _always("true or false"),
    _always("text"),
)
_LIST, _MAPPING = _always("a list: write [a, b]"), _always("a mapping of settings")
_EXPECTED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "int_parsing_size": _WHOLE,
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": _always("a finite number"),
    "bool_type": _TRUTH, "bool_parsing": _TRUTH, "string_type": _TEXT, "string_unicode": _TEXT,
    "tuple_type": _LIST, "list_type": _LIST,
    "dict_type": _MAPPING, "model_type": _MAPPING, "mapping_type": _MAPPING, "model_attributes_type": _MAPPING,
    "greater_than": lambda context: f"more than {context['gt']}",
    "greater_than_equal": lambda context: f"at least {context['ge']}",
    "less_than": lambda context: f"less than {context['lt']}",
    "less_than_equal": lambda context: f"at most {context['le']}",
    "string_pattern_mismatch": _pattern,
    "string_too_short": lambda context: f"at least {context['min_length']} characters",
    "string_too_long": lambda context: f"at most {context['max_length']} characters",
    "too_short": lambda context: f"at least {context['min_length']} in it",
    "too_long": lambda context: f"at most {context['max_length']} in it",
    "invalid_key": _always("keys that are texts: quote them"),
}  # fmt: skip
"""What is expected, by pydantic's type of error."""


def _unknown(section: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Return what to do about a setting that the section at `place`, seen from `section`, does not have."""
    root = section
    *above, name = place
    for part in above:
        inner = section_of(section, str(part))
        if inner is None:
            return "there is no such setting"
        section = inner
    here = [".".join([*map(str, above), field]) for field in section.model_fields]
    below, everywhere = [".".join([*map(str, above), path]) for path in _paths(section)], [*_paths(root)]
    paths = _named(below, str(name)) or _named(everywhere, str(name))
    by_name = dict(zip(section.model_fields, here, strict=True))
    if not 0 < len(paths) <= _MAX_PLACES:
        close = difflib.get_close_matches(str(name)[:_MAX_SHOWN], by_name, n=1)
        paths = [by_name[each] for each in close]
    if not paths:
        names = {path.rpartition(".")[2] for path in everywhere}
        close = difflib.get_close_matches(str(name)[:_MAX_SHOWN], sorted(names), n=1, cutoff=0.8)
        paths = [path for each in close for path in _named(everywhere, each)]
    if 0 < len(paths) <= _MAX_PLACES:
        return f"there is no such setting; did you mean {' or '.join(paths)}?"
    return f"there is no such setting, only {', '.join(section.model_fields)}"


def _named(paths: Iterable[str], name: str) -> list[str]:
    """Return the dotted names whose last part is `name`."""
    return [path for path in paths if path.rpartition(".")[2] == name]


def section_of(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that a setting is, whatever else it may be."""
    if name not in section.model_fields:
        return None
    waiting = [section.model_fields[name].annotation]
    while waiting:
        each = waiting.pop()
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
        waiting += get_args(each)
    return None


def _paths(section: type[BaseModel]) -> Iterator[str]:
    """Yield the dotted names of all settings in a section that are no sections."""
    for name in section.model_fields:
        inner = section_of(section, name)
        if inner is None:
            yield name
        else:
            yield from (f"{name}.{path}" for path in _paths(inner))
