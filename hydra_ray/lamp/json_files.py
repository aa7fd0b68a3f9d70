"""Streaming reader of JSON files that may be larger than memory or invalid: one value at a time, or one clear error."""

import codecs
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import IO, Any

from hydra_ray import storage
from hydra_ray.errors import InputError

MAX_DEPTH = 100
"""Deepest nesting of a file; ijson needs memory quadratic in it."""
_GZIP = b"\x1f\x8b"
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
            raise InputError(
                f"{location} is not valid JSON ({' '.join(str(error).split())}); expected {expected}. It starts with "
                f"{_start_of(location)!r}. Download it again: it may be cut off, or an error page in its place."
            ) from error
        if is_empty:
            raise InputError(f"{location} holds nothing to read; expected {expected}")


@contextmanager
def open_utf8(location: str) -> Generator[IO[bytes]]:
    """Open the file at `location` behind a UTF-8 byte order mark, if there is one.

    Raises:
        InputError: it is UTF-16 or UTF-32, or compressed.
    """
    with storage.open_input(location) as file:
        start = file.read(4)
        if start.startswith(_GZIP):
            raise InputError(f"{location} is compressed with gzip; expected UTF-8 text. Unpack it with `gunzip`.")
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in start:
            raise InputError(f"{location} is UTF-16 or UTF-32; expected UTF-8. Write it again as UTF-8.")
        file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        yield file


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


def _start_of(location: str) -> str:
    with storage.open_input(location) as file:
        return file.read(60).decode("utf-8", "replace")
