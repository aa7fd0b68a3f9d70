"""Streaming reader of JSON files that may be larger than memory or invalid: one value at a time, or one clear error."""

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import IO, Any

from hydra_ray.errors import InputError
from hydra_ray.lamp.raw_streams import open_utf8

MAX_DEPTH = 100
"""Deepest nesting of a file; ijson needs memory quadratic in it."""
_CHUNK_BYTES = 1 << 16
_KIND = re.compile(
    r"(lexical|parse) error: (?P<kind>[A-Za-z0-9 ,.:'\[\]{}-]+)|(?P<plain>integer overflow|[Pp]remature EOF)"
)
"""First line of a message of ijson's C parser; the lines after it quote the file."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS = re.compile(_STRING, flags=re.DOTALL)
_CLOSED = re.compile(rb'(?:[^"]*+' + _STRING + rb')*+[^"]*+', flags=re.DOTALL)
"""Longest prefix that does not end inside a string: searching for strings in an open one would take quadratic time."""
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - _STEPS.keys())


def json_items(location: str, prefix: str, expected: str) -> Iterator[Any]:
    """Yield the values at `prefix` (in ijson's notation), one in memory at a time; numbers are integers or floats.

    Raises:
        InputError: the file is not JSON, is nested too deeply, or has no such value.
    """
    import ijson  # pyright: ignore[reportMissingTypeStubs]

    with open_utf8(location) as file:
        is_empty = True
        try:
            # Without use_float, an integer of more than 4300 digits crashes the process in ijson's C code.
            for value in ijson.items(_Shallow(file, location), prefix, use_float=True):
                is_empty = False
                yield value
        except (ijson.JSONError, UnicodeDecodeError) as error:
            kind, place = _kind_of(error), _place_of_error(location)
            # The cause quotes the file.
            raise InputError(
                f"{location} is not valid JSON {place} ({kind}); expected {expected}. Correct it there, or download it "
                f"again: it may be cut off, or an error page in its place{_is_page(location)}."
            ) from None
        if is_empty:
            raise InputError(f"{location} holds nothing to read; expected {expected}")


def _kind_of(error: Exception) -> str:
    said = error.args[0] if error.args else ""  # bytes where they are no UTF-8
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    match = _KIND.match(text.partition("\n")[0])
    if match:
        return (match["kind"] or match["plain"]).strip()
    return "invalid bytes in UTF8 string" if isinstance(error, UnicodeDecodeError) else "unexpected content"


def _place_of_error(location: str) -> str:
    """Return the byte and the line at which a parser that is fed byte by byte finds the error."""
    import ijson  # pyright: ignore[reportMissingTypeStubs]

    fed = line = 0
    with open_utf8(location) as file:
        chunk = b""
        try:
            # Parsed from the start for every chunk would be quadratic; a parser that has failed is of no further use.
            parser = _parser(ijson)
            while chunk := file.read(_CHUNK_BYTES):
                parser.send(chunk)
                fed, line = fed + len(chunk), line + chunk.count(b"\n")
            parser.close()
            return f"at its end, byte {fed}, line {line + 1}"
        except (ijson.JSONError, UnicodeDecodeError):
            pass
    if not chunk:
        return f"at its end, byte {fed}, line {line + 1}"
    with open_utf8(location) as file:
        parser = _parser(ijson)
        left = fed
        while left:
            before = file.read(min(left, _CHUNK_BYTES))
            parser.send(before)
            left -= len(before)
        for place in range(len(chunk)):
            try:
                parser.send(chunk[place : place + 1])
            except (ijson.JSONError, UnicodeDecodeError):
                return f"at byte {fed + place}, line {line + chunk[:place].count(10) + 1}"
    return f"after byte {fed}, line {line + 1}"


def _parser(ijson: Any) -> Any:
    # Not basic events: some defects, such as numbers out of range, are seen when values are made.
    return ijson.items_coro(ijson.sendable_list(), "no such value", use_float=True)


def _is_page(location: str) -> str:
    with open_utf8(location) as file:
        return ", it starts with <" if file.read(60).lstrip().startswith(b"<") else ""


class _Shallow:
    """File of JSON that raises an error where it is nested too deeply."""

    def __init__(self, file: IO[bytes], location: str) -> None:
        self._file = file
        self._location = location
        self._depth = 0
        self._open = b""
        """Start of the string that the last chunk ended in, if any, perhaps after a backslash."""

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            InputError: they are nested too deeply.
        """
        chunk = self._file.read(size)
        seen = self._open + chunk
        closed = _CLOSED.match(seen)
        end = closed.end() if closed else 0
        num_backslashes = len(seen) - len(seen.rstrip(b"\\"))
        self._open = seen[end : end + 1] + b"\\" * (num_backslashes % 2) * (end < len(seen))
        outside = _STRINGS.sub(b"", seen[:end])
        steps = map(_STEPS.__getitem__, outside.translate(None, delete=_NO_BRACKETS))
        depths = list(accumulate(steps, initial=self._depth))
        if max(depths) > MAX_DEPTH:
            raise InputError(
                f"{self._location} is nested more than {MAX_DEPTH} levels deep, as no users' file is; check the file."
            )
        self._depth = depths[-1]
        return chunk
