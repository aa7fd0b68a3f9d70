"""Damage to files: single flipped bits, and content that was lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from hydra_ray.errors import HydraError

NUM_FLIPS = 6


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit the other way round."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damages(path: Path) -> Iterator[tuple[str, bytes]]:
    """Contents that a file may be left with, by what happened to it; the same ones at every call."""
    content, chance = path.read_bytes(), Random(path.name)
    for bit in sorted(chance.sample(range(8 * len(content)), min(NUM_FLIPS, 8 * len(content)))):
        yield f"bit {bit} of {8 * len(content)}", flipped(content, bit)
    yield "cut off", content[: len(content) // 2]
    yield "emptied", b""
    if path.suffix == ".json":
        yield from ((text, text.encode()) for text in ("[]", "{}", "null"))


def unnoticed(path: Path, read: Callable[[], object]) -> list[str]:
    """What can happen to a file without an error that names it, when `read` reads it; the file is left as it was."""
    content, missed = path.read_bytes(), list[str]()
    for what, damaged in damages(path):
        path.write_bytes(damaged)
        try:
            read()
        except HydraError as error:
            if path.name not in str(error) and path.parent.name not in str(error):
                missed.append(f"{path}, {what}: {error}")
        except Exception as error:  # the very thing that must not happen
            missed.append(f"{path}, {what}: {error!r}")
        else:
            missed.append(f"{path}, {what}")
    path.write_bytes(content)
    read()
    return missed
