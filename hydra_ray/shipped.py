"""Configurations that are shipped with the package, found by name.

They are the YAML files of `jobs/configs`, to which `hydra_ray/configs` is a link; a wheel contains the files
themselves. The JSON Schemas that they name on their first line lie beside them.
"""

import os
import stat
from pathlib import Path

from hydra_ray.errors import ConfigError

FOLDER = Path(__file__).parent / "configs"
_SUFFIX = ".yaml"
_MAX_SHOWN = 300


def shipped_names() -> list[str]:
    """Return the sorted names of the shipped configurations."""
    return sorted(path.stem for path in FOLDER.glob(f"*{_SUFFIX}"))


def find_configuration(given: str | Path) -> Path:
    """Return the file `given` if it exists, or else the shipped configuration of that name.

    Raises:
        ConfigError: there is neither, or the file cannot be accessed.
    """
    path = Path(given)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return path
    except PermissionError as error:
        raise ConfigError(
            f"cannot read the configuration {_shown(given)}: let this program's user enter the folders above it."
        ) from error
    except (OSError, ValueError):
        pass  # there is none, and no file can have the name
    names = shipped_names()
    if str(given) in names:
        return FOLDER / f"{given}{_SUFFIX}"
    raise ConfigError(
        f"cannot read the configuration {_shown(given)}: there is no such file. Give a YAML file, or the name of a "
        f"shipped configuration: {', '.join(names)}."
    )


def _shown(given: str | Path) -> str:
    """Return a path for a message: any text may stand in its place."""
    text = str(given) if str(given).isprintable() else ascii(str(given))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def is_configuration(given: str) -> bool:
    """Return whether `given` is meant as a configuration (a YAML file or a bare name) and not as a run's folder."""
    return given.endswith((_SUFFIX, ".yml")) or (given == Path(given).name and not os.path.isdir(given))
