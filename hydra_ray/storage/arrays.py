"""Files of named arrays, in the safetensors format."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hydra_ray.errors import DamagedError
from hydra_ray.storage.files import read_bytes, write_bytes
from hydra_ray.storage.seals import digest_of

Array = np.ndarray[Any, Any]


class Arrays(dict[str, Array]):
    """Arrays by name; one that is missing is an error that names the file."""

    def __init__(self, arrays: Mapping[str, Array], location: str, anew: str) -> None:
        super().__init__(arrays)
        self._location, self._anew = location, anew

    def __missing__(self, name: str) -> Array:
        """Refuse a name.

        Raises:
            DamagedError: always.
        """
        raise DamagedError(f"{self._location} is damaged: it has no array {name!r}. {self._anew}")


def write_arrays(location: str, arrays: Mapping[str, Array]) -> str:
    """Write arrays to `location`, atomically, and return the digest of the file."""
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_bytes(location, content)
    return digest_of(content)


def read_arrays(location: str, anew: str, digest: str | None = None) -> Arrays:
    """Return the arrays at `location`.

    Args:
        anew: what to do where the file is damaged.
        digest: digest of the file, where it is known.

    Raises:
        StorageError: there is no such file.
        DamagedError: it is not what was written, or holds no arrays.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read_bytes(location)
    if digest not in (None, digest_of(content)):
        raise DamagedError(f"{location} is damaged: it is not the file whose digest stands beside it. {anew}")
    try:
        return Arrays(load(content), location, anew)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{location} is damaged: {error}. {anew}") from error
