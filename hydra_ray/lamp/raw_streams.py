"""Raw input files as streams of bytes, unpacked where they are compressed.

What an error of a library says of a file is left out: it may quote the file's text.
"""

# pyarrow comes without type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import codecs
import io
import lzma
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Any, cast

import pyarrow as pa

from hydra_ray import storage
from hydra_ray.errors import HydraError, InputError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ARROW_CODECS = {_GZIP: "gzip", b"BZh": "bz2", _ZSTD: "zstd", b"\x04\x22\x4d\x18": "lz4"}
_ZSTD_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""Frame without content, which some programs that pack with zstd begin with."""
_XZ = b"\xfd7zXZ\x00"
_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7-Zip archive", b"\xff\x06\x00\x00sNaPpY": "snappy"}
COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".lz4")
"""Endings of names of compressed files; whether a file is compressed is told by its content."""
_BUFFER_BYTES = 1 << 18
_START_BYTES = 16


class RawStream(io.RawIOBase):
    """Bytes of a raw file behind its compression."""

    def __init__(self, location: str):
        """Open the file at `location`.

        Raises:
            InputError: it is an archive.
            StorageError: it cannot be read.
        """
        self._location = location
        self._file = storage.open_source(location)
        self._unpacked: Any = self._file
        self.codec = ""
        """Name of the compression; empty where there is none."""
        try:
            start = self._file.read(_START_BYTES)
            self._file.seek(0)
            self._unpack(start)
        except OSError as error:
            raise InputError(f"{location} cannot be read ({type(error).__name__}); check that it can be") from None
        self._num_bytes = storage.file_state(location)[0]
        self._num_unpacked = 0

    def _unpack(self, start: bytes) -> None:
        for magic, name in _ARCHIVES.items():
            if start.startswith(magic):
                raise InputError(f"{self._location} is {name}, which is not read; unpack it, or pack it with gzip")
        if start.startswith(_XZ):
            self.codec, self._unpacked = "xz", lzma.LZMAFile(self._file)  # noqa: SIM115 (closed with the file beneath)
        if _ZSTD_SKIPPED.match(start):
            start = _ZSTD
        for magic, codec in _ARROW_CODECS.items():
            if start.startswith(magic):
                # pyarrow's type stubs lack the class.
                self.codec = codec
                self._unpacked = cast(Any, pa).CompressedInputStream(pa.PythonFile(self._file, mode="r"), codec)

    def fraction_before(self, place: int) -> float:
        """Return the approximate share of the file that stands before a place of its unpacked content."""
        read = min(self._file.tell() / max(self._num_bytes, 1), 1.0)
        return read * min(place / max(self._num_unpacked, 1), 1.0)

    def tell(self) -> int:
        """Return the number of unpacked bytes that have been read."""
        return self._num_unpacked

    def readable(self) -> bool:
        """Return whether the stream can be read: always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer; return the number of bytes, 0 at the end.

        Raises:
            InputError: the file is cut off or damaged.
        """
        view = memoryview(buffer)
        try:
            content = self._unpacked.read(len(view))
        except HydraError:
            raise
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
            was = f"as {self.codec}" if self.codec else "to its end"
            raise InputError(
                f"{self._location} cannot be read {was} ({type(error).__name__}): it may be cut off or damaged. Get it "
                "again from where it came from."
            ) from None
        view[: len(content)] = content
        self._num_unpacked += len(content)
        return len(content)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def open_bytes(location: str) -> Generator[tuple[io.BufferedReader, RawStream]]:
    """Open the file at `location`, unpacked, with the raw stream beneath.

    Raises:
        InputError: it is an archive.
        StorageError: it cannot be read.
    """
    raw = RawStream(location)
    with io.BufferedReader(raw, _BUFFER_BYTES) as file:
        yield cast(io.BufferedReader, file), raw


@contextmanager
def open_utf8(location: str) -> Generator[IO[bytes]]:
    """Open the file at `location`, unpacked, behind a UTF-8 byte order mark, if there is one.

    Raises:
        InputError: it is UTF-16 or UTF-32, or an archive.
    """
    with open_bytes(location) as (file, _):
        skip_mark(file, location)
        yield file


def skip_mark(file: io.BufferedReader, location: str) -> None:
    """Move behind a UTF-8 byte order mark.

    Raises:
        InputError: the text is UTF-16 or UTF-32, or packed twice.
    """
    start = file.peek(4)[:4]
    if start.startswith(_GZIP):
        raise InputError(f"{location} is packed twice; unpack it once")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 0 in start:
        raise InputError(f"{location} is UTF-16 or UTF-32; expected UTF-8. Write it again as UTF-8.")
    if start.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
