"""Parquet files all of whose bytes are checked when they are read.

The footer lists the digests of blocks, which end where row groups end, and every mebibyte within larger ones. Before
the footer, where Parquet leaves room, stands a seal: eight bytes that mark it and the footer's digest. A reader checks
the seal first, and then each block that it reads anything of. Every other Parquet library reads such a file too. A file
without seal and list, of an earlier version, is read with the checksums of its pages alone.
"""

import hashlib
import io
import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hydra_ray.errors import DamagedError
from hydra_ray.storage.seals import digest_of

BLOCKS_KEY = b"hydra_ray.blocks"
"""Key in a file's metadata of its blocks: JSON lists of where they end and of their digests."""
_ARROW_SCHEMA_KEY = b"ARROW:schema"
_MAGIC = b"hydraray"
_END = b"PAR1"
_TRAILER_BYTES = 8
"""Size of what follows the footer: its length and Parquet's mark."""
_SEAL_BYTES = len(_MAGIC) + 16
_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10
"""Size of the first read, which holds most footers."""


class SealedOutput:
    """File that a Parquet writer writes to, and that digests what it passes on."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        """Take the file, which is empty."""
        self._file = file
        self._num_bytes = 0
        self._block_bytes = 0
        self._digest = _new_block()
        self._ends: list[int] = []
        self._digests: list[str] = []
        self._footer: bytearray | None = None

    def write(self, content: Any) -> int:
        """Write a buffer, or keep it back where it is of the footer."""
        view = memoryview(content).cast("B")
        if self._footer is not None:
            self._footer += view
        else:
            self._file.write(view)
            self._take(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._num_bytes + len(self._footer or b"")

    def flush(self) -> None:
        """Do nothing: who opened the file flushes it."""

    def close(self) -> None:
        """Do nothing: who opened the file closes it."""

    def end_block(self) -> None:
        """End the block that is being written, if there is any of it."""
        if self._block_bytes:
            self._ends.append(self._num_bytes)
            self._digests.append(self._digest.hexdigest())
            self._block_bytes, self._digest = 0, _new_block()

    def begin_footer(self) -> bytes:
        """Return the list of blocks; what is written from now on is the footer."""
        self.end_block()
        self._footer = bytearray()
        return json.dumps({"ends": self._ends, "digests": self._digests}).encode()

    def finish(self) -> None:
        """Write the seal and the footer."""
        footer = bytes(self._footer or b"")
        assert len(footer) == _footer_bytes(footer), "a row group was written after the list of blocks"
        self._file.write(_seal(footer))
        self._file.write(footer)

    def _take(self, view: memoryview) -> None:
        while view:
            piece = view[: _BLOCK_BYTES - self._block_bytes]
            self._digest.update(piece)
            self._num_bytes += len(piece)
            self._block_bytes += len(piece)
            if self._block_bytes == _BLOCK_BYTES:
                self.end_block()
            view = view[len(piece) :]


def open_checked(file: pa.NativeFile, location: str, anew: str, *, pre_buffer: bool) -> tuple[pq.ParquetFile, str]:
    """Open a Parquet file, of which only the footer is read, and return it with the digest of its content.

    The digest is that of blocks and schema, not of the rest of the footer: a part that two processes make has the same
    one, whatever time each of them took. In a file without a seal it is that of the footer.

    Args:
        anew: what to do where it is damaged.
        pre_buffer: whether to fetch what is read in few, large requests.

    Raises:
        DamagedError: it is no Parquet file, or its footer is not what was written. Reading raises it for blocks.
    """
    source, metadata, digest = _checked(file, location, anew)
    has_blocks = isinstance(source, _CheckedInput)
    part = pq.ParquetFile(source, metadata=metadata, pre_buffer=pre_buffer, page_checksum_verification=not has_blocks)
    return part, digest


def checked_digest(content: bytes, location: str, anew: str) -> str:
    """Return the digest of a whole file, given its bytes, all of which are checked; see `open_checked`.

    Raises:
        DamagedError: they are not what was written.
    """
    source, _, digest = _checked(pa.BufferReader(content), location, anew)
    if isinstance(source, _CheckedInput):
        source.read()
    return digest


def _checked(
    file: pa.NativeFile, location: str, anew: str
) -> tuple["pa.NativeFile | _CheckedInput", pq.FileMetaData, str]:
    """Return a file to read blocks from, its footer, and the digest of its content."""
    footer, seal = _read_footer(file, location, anew)
    is_sealed = seal.startswith(_MAGIC)
    if is_sealed and seal != _seal(footer):
        raise DamagedError(f"the table {location} is damaged: its footer is not what was written. {anew}")
    metadata = pq.read_metadata(pa.BufferReader(footer))
    entries: dict[bytes, bytes] = metadata.metadata or {}
    blocks = entries.get(BLOCKS_KEY)
    if is_sealed != (blocks is not None):
        raise DamagedError(f"the table {location} is damaged: it has lost its footer's seal. {anew}")
    if blocks is None:
        return file, metadata, digest_of(footer)
    source = _CheckedInput(file, json.loads(blocks), f"the table {location} is damaged", anew)
    return source, metadata, digest_of(blocks + entries.get(_ARROW_SCHEMA_KEY, b""))


class _CheckedInput(io.RawIOBase):
    """File of which nothing is read but blocks that have been checked."""

    def __init__(self, file: pa.NativeFile, blocks: dict[str, Any], damage: str, anew: str) -> None:
        super().__init__()
        self._file = file
        self._ends: Sequence[int] = blocks["ends"]
        self._digests: Sequence[str] = blocks["digests"]
        self._damage, self._anew = damage, anew
        self._position = 0
        self._kept = (0, b"")
        """Where the last checked blocks begin, and their bytes: neighbouring columns are often of one block."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size())[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        end = self._size() if size < 0 else min(start + size, self._size())
        begin, content = self._kept
        if not begin <= start <= end <= begin + len(content):
            begin, content = self._kept = self._checked(start, end)
        self._position = end
        return content[start - begin : end - begin]

    def _size(self) -> int:
        return self._ends[-1]

    def _checked(self, start: int, end: int) -> tuple[int, bytes]:
        """Return where the blocks begin that hold a range, and their bytes."""
        first = min(bisect_right(self._ends, start), len(self._ends) - 1)
        last = max(bisect_left(self._ends, end), first)
        begin = self._ends[first - 1] if first else 0
        content = self._file.read_at(self._ends[last] - begin, begin)
        place = 0
        for block in range(first, last + 1):
            length = self._ends[block] - begin - place
            if _new_block(memoryview(content)[place : place + length]).hexdigest() != self._digests[block]:
                raise DamagedError(
                    f"{self._damage}: bytes {begin + place} to {self._ends[block]} are not what was written. "
                    f"{self._anew}"
                )
            place += length
        return begin, content


def _read_footer(file: pa.NativeFile, location: str, anew: str) -> tuple[bytes, bytes]:
    """Return the footer, with what follows it, and what stands where a seal would be."""
    size = file.size()
    tail = file.read_at(min(size, _TAIL_BYTES), max(size - _TAIL_BYTES, 0))
    length = _footer_bytes(tail)
    if length + len(_END) > size:
        raise DamagedError(f"the table {location} is damaged: it is cut off, or no Parquet file. {anew}")
    if length + _SEAL_BYTES > len(tail):
        num_bytes = min(size, length + _SEAL_BYTES)
        tail = file.read_at(num_bytes, size - num_bytes)
    return tail[-length:], tail[:-length][-_SEAL_BYTES:]


def _footer_bytes(tail: bytes) -> int:
    """Return the size of the footer that a file ends with, and of what follows it."""
    if len(tail) < _TRAILER_BYTES + len(_END) or not tail.endswith(_END):
        return 1 << 62
    return int.from_bytes(tail[-_TRAILER_BYTES : -len(_END)], "little") + _TRAILER_BYTES


def _seal(footer: bytes) -> bytes:
    return _MAGIC + bytes.fromhex(digest_of(footer))


def _new_block(content: bytes | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=8)
