# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""YAML documents that users write, read with bounds: no document takes long, grows in memory or ends in a traceback."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from hydra_ray.errors import shortened

MAX_BYTES = 2_000_000
"""Size of the largest document, in bytes."""
MAX_NODES = 100_000
"""Largest number of values in a document, those of an alias counted wherever it stands."""
MAX_DEPTH = 50
"""Largest number of lists and mappings inside each other."""
_CHARACTERS_PER_NODE = 100
"""Length of a text that counts as one more value."""
_MAX_BITS = 64
_MAX_SHOWN = 40
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def read_document(path: Path) -> Any:
    """Return the value of the only document in the YAML file at `path`, as `parse_document` does.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no such document.
    """
    return parse_document(_read_text(path))


def read_manifests(path: Path) -> list[Any]:
    """Return the values of all documents in a YAML file of another program's, empty ones left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, or beyond the bounds.
    """
    return [value for value in _values(_read_text(path), _BoundedLoader) if value is not None]


def parse_document(text: str) -> Any:
    """Return the value of the only YAML document in `text`: None, or text, numbers and truth values, in lists and in
    mappings whose keys are texts. A date is the text that was written.

    Raises:
        ValueError: it is none, in one sentence.
    """
    values = _values(text, _ConfigurationLoader)
    if len(values) > 1:
        raise ValueError("it holds several documents: expected one, without a line ---")
    return values[0] if values else None


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES // 1_000_000} MB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is UTF-16: write it again as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8, from byte {error.start} on: write it again as UTF-8") from error


def _values(text: str, loader_type: type["_BoundedLoader"]) -> list[Any]:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES // 1_000_000} MB")
    try:
        loader = loader_type(text)
        values: list[Any] = []
        while loader.check_data() and len(values) < MAX_DEPTH:
            values.append(loader.get_data())
    except _DocumentError:
        raise
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise ValueError(f"the character U+{code:04X} at place {error.position} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(_sentence(error)) from error
    # What PyYAML's constructors raise where a tag and its value do not fit is not a YAMLError.
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError("a tag and its value do not fit") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return values


def _sentence(error: yaml.MarkedYAMLError) -> str:
    """Return the problem of an error of PyYAML's, and where it is."""
    problem = error.problem or error.context or "it cannot be read"
    if r"'\t'" in problem:
        problem = "a tab stands where only spaces may: indent with spaces"
    if problem.startswith("could not determine a constructor"):
        tag = problem.rpartition(" ")[2].strip("'").replace(_TAG, "!!")
        problem = f"a configuration has no value with the tag {tag}"
    mark = error.problem_mark or error.context_mark
    return problem if mark is None else f"{problem}, at line {mark.line + 1}, column {mark.column + 1}"


class _DocumentError(ValueError):
    """What is wrong with a document, in words of ours."""


class _BoundedLoader(yaml.SafeLoader):
    """YAML's safe loader, with bounds on depth and on what aliases make of a document."""

    def __init__(self, text: str) -> None:
        """Read `text`, which is refused while it is read."""
        super().__init__(text)
        self._depth = 0
        self._num_nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, counted with all that is in it."""
        event = self.peek_event()
        before = self._num_nodes
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _DocumentError(f"it is nested more than {MAX_DEPTH} deep")
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _DocumentError(f"the alias *{event.anchor} stands in what it is an alias of")
        length = len(node.value) // _CHARACTERS_PER_NODE if isinstance(node, yaml.ScalarNode) else 0
        self._num_nodes += self._sizes[id(node)] if is_alias else 1 + length
        if self._num_nodes > MAX_NODES:
            raise _DocumentError(f"it has more than {MAX_NODES} values, those that aliases repeat included")
        if not is_alias:
            self._sizes[id(node)] = self._num_nodes - before
        return node


class _ConfigurationLoader(_BoundedLoader):
    """Loader of configurations: what YAML reads in a way that hardly anybody means is text, or an error.

    Nothing depends on what else the process imported: lm-format-enforcer, which vLLM imports, changes how `SafeLoader`
    reads dates.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in _PLAIN_TAGS
    }

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node; numbers to the base of 60, such as 12:30, are text, and so is =."""
        if kind is yaml.ScalarNode and implicit[0] and _SEXAGESIMAL.fullmatch(value):
            return f"{_TAG}str"
        tag = super().resolve(kind, value, implicit)
        return f"{_TAG}str" if tag == f"{_TAG}value" else tag

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping whose keys are texts, each there once; merged ones may be given again."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if key.tag != f"{_TAG}str":
                raise _DocumentError(f"a key is no text, at line {key.start_mark.line + 1}: quote it")
            if key.value in seen:
                raise _DocumentError(f"the key {_clipped(key.value)} is given twice, at line {key.start_mark.line + 1}")
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number of at most 64 bits.

        Raises:
            _DocumentError: it is larger, or begins with a zero, so that it may be meant as octal, decimal or text.
        """
        if _LEADING_ZERO.fullmatch(node.value):
            raise _DocumentError(
                f"{_clipped(node.value)} may be octal or decimal: write it without the zero, or quote it"
            )
        if len(node.value) > _MAX_BITS + 2:
            raise _DocumentError(
                f"a number of {len(node.value)} digits is beyond {_MAX_BITS} bits: quote it if it is text"
            )
        number = super().construct_yaml_int(node)
        if abs(number) >= 1 << (_MAX_BITS - 1):
            raise _DocumentError(f"{number} is beyond {_MAX_BITS} bits: quote it if it is text")
        return number


_ConfigurationLoader.add_constructor(f"{_TAG}int", _ConfigurationLoader.construct_yaml_int)


def _clipped(text: str) -> str:
    return repr(shortened(text, _MAX_SHOWN))
