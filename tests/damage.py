"""Damage to files: single flipped bits, and content that was lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from hydra_ray.errors import HydraError

NUM_FLIPS = 3


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit the other way round."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damages(path: Path) -> Iterator[str]:
    """Do to a file what can happen to it, one thing after the other, and yield what was done; then restore it."""
    content, chance = path.read_bytes(), Random(path.name)
    for bit in sorted(chance.sample(range(8 * len(content)), min(NUM_FLIPS, 8 * len(content)))):
        flip(path, bit)
        yield f"bit {bit} of {8 * len(content)}"
        flip(path, bit)
    texts = [b"[]", b"{}", b"null"] if path.suffix == ".json" else []
    for text in [content[: len(content) // 2], b"", *texts]:
        path.write_bytes(text)
        yield f"cut off, or no more than {text[:4]!r}"
    path.write_bytes(content)


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file where it stands."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def unnoticed(path: Path, read: Callable[[], object]) -> list[str]:
    """What can happen to a file without an error that names it or its folder, when `read` reads it."""
    missed: list[str] = []
    for what in damages(path):
        try:
            read()
        except HydraError as error:
            if path.name not in str(error) and path.parent.name not in str(error):
                missed.append(f"{path}, {what}: {error}")
        except Exception as error:  # the very thing that must not happen
            missed.append(f"{path}, {what}: {error!r}")
        else:
            missed.append(f"{path}, {what}")
    read()
    return missed
