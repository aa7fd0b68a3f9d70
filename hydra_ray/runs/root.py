"""State of a storage root as a whole: its secret key, and the users who were removed from it.

Buckets and pseudonyms of users are keyed hashes: without the key, a path or a receipt cannot be linked to a user. A
removed user's receipt is named by the pseudonym, and while it exists no run under the root reads the user again.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError

KEY = "key"
"""Name of the key file in a root."""
FORGOTTEN = "forgotten"
"""Name of the folder of receipts in a root."""
_RECEIPT_SUFFIX = ".json"


def is_submitted_job() -> bool:
    """Return whether `ray job submit` started this process, in a temporary copy of a working directory."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute_root(root: str) -> str:
    """Return a folder or URI that means the same for every process, given as typed.

    Raises:
        ConfigError: the path is relative in a submitted job, whose working directory is temporary, or below the home of
            a user who has none here.
    """
    if is_submitted_job():
        return storage.require_absolute(root, "storage.root")
    if storage.is_uri(root):
        return root
    try:
        return str(Path(root).expanduser().resolve())
    except (RuntimeError, OSError) as error:  # no such user's home, or a loop of links
        raise ConfigError(f"storage.root {root!r} cannot be found ({error}): give an absolute folder.") from error


def root_key(root: str) -> str:
    """Return the root's secret key; the first call creates it."""
    location = storage.join(root, KEY)
    if not storage.exists(location):
        storage.write_new(location, secrets.token_hex(16).encode())
    return storage.read_bytes(location).decode().strip()


def bucket_key_of(config: RunConfig) -> str:
    """Return the key of the hash that assigns a run's users to buckets."""
    return config.users.bucket_key or root_key(config.storage.root)


def bucket_key_name(config: RunConfig) -> str:
    """Return a name of the bucket key that does not reveal it: anyone may see fingerprints and manifests."""
    return config.users.bucket_key or pseudonym("", root_key(config.storage.root))


def pseudonym(user_id: str, key: str) -> str:
    """Return a 128-bit keyed hash of the user id, in hex."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=16, key=key.encode())
    return digest.hexdigest()


def receipt_location(root: str, user: str) -> str:
    """Return the location of the receipt of a user, given by pseudonym."""
    return storage.join(root, FORGOTTEN, f"{user}{_RECEIPT_SUFFIX}")


def forgotten_pseudonyms(root: str) -> frozenset[str]:
    """Return the pseudonyms of all users who were removed from a root, or are being removed."""
    names = storage.list_files(storage.join(root, FORGOTTEN))
    return frozenset(name.removesuffix(_RECEIPT_SUFFIX) for name in names if name.endswith(_RECEIPT_SUFFIX))


def forgetting(root: str) -> Callable[[str], bool]:
    """Return a function that tells whether runs under the root must leave out a user id."""
    forgotten = forgotten_pseudonyms(root)
    key = root_key(root) if forgotten else ""
    return lambda user_id: pseudonym(user_id, key) in forgotten
