"""What belongs to a storage root as a whole: its secret key, and who was forgotten under it.

The key makes buckets and pseudonyms of users: without it nobody can tell from a path or a receipt whose it is. A user's
receipt is named by the user's pseudonym, and while it is there no run under the root takes the user in again.
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
"""Name of the key's file in a root."""
FORGOTTEN = "forgotten"
"""Name of the folder of receipts in a root."""
_RECEIPT_SUFFIX = ".json"


def is_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, in a temporary copy of somebody's working directory."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def absolute_root(root: str) -> str:
    """A folder or URI that a person named, the same for every process.

    Raises:
        ConfigError: it is relative to the working directory of a submitted job, which is gone after it, or below the
            home of a user who has none here.
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
    """The root's secret key, made when it is first asked for."""
    location = storage.join(root, KEY)
    if not storage.exists(location):
        storage.write_new(location, secrets.token_hex(16).encode())
    return storage.read_bytes(location).decode().strip()


def bucket_key_of(config: RunConfig) -> str:
    """Key of the hash that assigns a run's users to buckets."""
    return config.users.bucket_key or root_key(config.storage.root)


def bucket_key_name(config: RunConfig) -> str:
    """What tells this key from others without telling it: fingerprints and manifests may be seen by anyone."""
    return config.users.bucket_key or pseudonym("", root_key(config.storage.root))


def pseudonym(user_id: str, key: str) -> str:
    """Thirty-two hex digits that stand for a user, whom only the root's key can tell."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=16, key=key.encode())
    return digest.hexdigest()


def receipt_location(root: str, user: str) -> str:
    """Location of the receipt of a user, given by pseudonym."""
    return storage.join(root, FORGOTTEN, f"{user}{_RECEIPT_SUFFIX}")


def forgotten_pseudonyms(root: str) -> frozenset[str]:
    """Everybody who was forgotten under a root, or is being forgotten."""
    names = storage.list_files(storage.join(root, FORGOTTEN))
    return frozenset(name.removesuffix(_RECEIPT_SUFFIX) for name in names if name.endswith(_RECEIPT_SUFFIX))


def forgetting(root: str) -> Callable[[str], bool]:
    """Tells of a user whether runs under the root must leave the user out."""
    forgotten = forgotten_pseudonyms(root)
    key = root_key(root) if forgotten else ""
    return lambda user_id: pseudonym(user_id, key) in forgotten
