"""Resolves a location to its store: local files, or an object store.

The environment names the object store's endpoint, so that every process of a cluster needs only a location.
"""

import os
import re

from hydra_ray.config import StorageConfig
from hydra_ray.errors import ConfigError
from hydra_ray.storage.local import LocalStore
from hydra_ray.storage.s3 import ENDPOINTS, REGIONS, S3Store, s3_store

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<bucket>[^/]*)")
_OPTIONS = re.compile(r"[?#][A-Za-z_-]+=")
"""Options of a URL; `?` and `#` alone may be part of a key."""
_LOCAL = LocalStore()


def reach(config: StorageConfig) -> None:
    """Set the object store's endpoint and region in the environment of this process and of those that it starts.

    Raises:
        ConfigError: the environment names a different one.
    """
    for setting, value, names in (("endpoint", config.endpoint, ENDPOINTS), ("region", config.region, REGIONS)):
        if value is None:
            continue
        current = os.environ.setdefault(names[0], value)
        if current != value:
            raise ConfigError(
                f"storage.{setting} is {value!r}, but {names[0]} in the environment is {current!r}: set only one"
            )


def worker_environment() -> dict[str, str]:
    """Return the environment variables that a process on another machine needs to reach the same object store, without
    credentials."""
    return {name: os.environ[name] for name in (*ENDPOINTS, *REGIONS) if os.environ.get(name)}


def is_uri(location: str) -> bool:
    """Return whether `location` names an object store and not a local path."""
    return _URI.match(location) is not None


def store_of(location: str) -> tuple[LocalStore | S3Store, str]:
    """Return the store that `location` is in, and its path there.

    Raises:
        ConfigError: there is no such store, or the location carries credentials.
    """
    require_supported(location)
    if not is_uri(location):
        return _LOCAL, location
    path = location[len("s3://") :]
    return s3_store(path), path


def require_supported(location: str) -> None:
    """Check that `location` is in a supported kind of store, without contacting it.

    Raises:
        ConfigError: the kind of store is not supported, the location carries credentials, or it holds a character that
            no path can.
    """
    try:
        os.fsencode(location)
    except UnicodeEncodeError:
        is_text = False
    else:
        is_text = "\0" not in location
    if not is_text:
        raise ConfigError(f"{location!a} holds NUL or half a character, as no path can: correct the path")
    match = _URI.match(location)
    if match is None:
        return
    # A secret may contain a slash; the rest of it then looks like a bucket with a port.
    if re.search("[@:]", match["bucket"]) or _OPTIONS.search(location):
        raise ConfigError(
            f"a location {match['scheme']}://... carries credentials or options, which would stand in configurations "
            "and logs. Expected s3://bucket/folder, the store itself in storage.endpoint and storage.region, and "
            "credentials where the standard chain finds them (environment, ~/.aws, the machine's role)."
        )
    if match["scheme"] != "s3" or not match["bucket"]:
        raise ConfigError(
            f"{location!r} is in a store that is not supported: expected an absolute path or s3://bucket/folder, which "
            "is in S3 or in a store that speaks its protocol (storage.endpoint). Copy the files to one of these, or "
            "mount the other store on every node and give the path."
        )
