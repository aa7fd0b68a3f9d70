"""State of a storage root as a whole: its secret key, and the users who were removed from it.

Buckets and pseudonyms of users are keyed hashes: without the key, a path or a receipt cannot be linked to a user. A
removed user's receipt is named by the pseudonym, and while it exists no run under the root reads the user again.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.errors import ConfigError, StorageError
from hydra_ray.storage.listings import MANIFEST

KEY = "key"
"""Name of the key file in a root."""
KEY_CHECK = "key.check"
"""Name of the file in a root by which a changed key is told: a keyed hash, which does not reveal the key."""
STORES = "completions"
"""Name of the folder of all stores of completions in a root."""
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
    """Return the root's secret key; the first call creates it.

    Raises:
        StorageError: the key was lost or changed. With another one the users who were removed would not be recognized,
            and those who are there would not be found in their buckets.
    """
    key = known_root_key(root)
    if key is None:
        storage.write_new(storage.join(root, KEY), secrets.token_hex(16).encode())
        key = known_root_key(root) or ""
    return key


def known_root_key(root: str) -> str | None:
    """Return the root's secret key; None where nothing has needed one yet.

    Raises:
        StorageError: as for `root_key`.
    """
    content, check = (storage.read_if_there(storage.join(root, name)) for name in (KEY, KEY_CHECK))
    if content is None:
        if check is None and not _has_had_key(root):
            return None
        # Another process may have made it since.
        content = storage.read_if_there(storage.join(root, KEY))
        if content is None:
            raise _lost_key(root, "is missing")
    key = content.decode("ascii", "replace").strip()
    if not key or not key.isascii() or len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        raise _lost_key(root, f"holds {len(content)} bytes that are no key")
    if check is None:
        _require_known(root, key)
        storage.write_new(storage.join(root, KEY_CHECK), _name_of(key).encode())
    elif check.decode("ascii", "replace").strip() != _name_of(key):
        raise _lost_key(root, f"is not the key that {KEY_CHECK} beside it was made of, so one of the two was changed")
    return key


def _name_of(key: str) -> str:
    """Return a name of a key that does not reveal it."""
    return pseudonym("", key)


def _lost_key(root: str, what: str) -> StorageError:
    return StorageError(
        f"the key {storage.join(root, KEY)} {what}. Restore it from a backup (32 hexadecimal digits). Without it "
        "nobody can tell which users were forgotten here, and they would be read again: if there is no backup, start "
        f"with a new storage.root and forget them there. If {KEY_CHECK} alone is damaged, remove that file."
    )


def _require_known(root: str, key: str) -> None:
    """Check a key whose root has no check value yet, such as a root of an earlier version, by what was named with it.

    Raises:
        StorageError: other keys were used, and not this one.
    """
    names = _key_names(root)
    is_usual = re.fullmatch("[0-9a-f]{32}", key) is not None
    if (names and _name_of(key) not in names) or not (names or is_usual):
        raise _lost_key(root, "is not the one that users were divided into buckets with")


def _has_had_key(root: str) -> bool:
    """Return whether something below a root was made with a key."""
    if forgotten_pseudonyms(root) or _key_names(root):
        return True
    return any(path.endswith(".parquet") for path in storage.list_tree(storage.join(root, STORES)))


def _key_names(root: str) -> frozenset[str]:
    """Return the names of the root's keys that users were divided into buckets with.

    A users stage records the name of the root's key, or the run's own bucket key, which is left out.
    """
    users, runs = storage.join(root, "stages", "users"), storage.join(root, "runs")
    recorded = (_setting(storage.join(users, path), "settings") for path in _below(users, MANIFEST))
    own = {_setting(storage.join(runs, path)) for path in _below(runs, "config.json")}
    return frozenset(name for name in recorded if name is not None and re.fullmatch("[0-9a-f]{32}", name)) - own


def _below(folder: str, name: str) -> list[str]:
    return [path for path in storage.list_tree(folder) if path.endswith(f"/{name}")]


def _setting(location: str, *sections: str) -> str | None:
    """Return users.bucket_key of a configuration or of a section of a manifest."""
    found: Any = storage.read_json(location)
    for name in (*sections, "users", "bucket_key"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def bucket_key_of(config: RunConfig) -> str:
    """Return the key of the hash that assigns a run's users to buckets."""
    return config.users.bucket_key or root_key(config.storage.root)


def bucket_key_name(config: RunConfig) -> str:
    """Return a name of the bucket key that does not reveal it: anyone may see fingerprints and manifests."""
    return config.users.bucket_key or _name_of(root_key(config.storage.root))


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


def receipts_key(root: str) -> str:
    """Return the root's secret key, which receipts are named with.

    A check value beside the receipts tells a key that was exchanged together with the value beside it, such as by those
    of another root.

    Raises:
        StorageError: the receipts were named with another key; else as for `root_key`.
    """
    key, location = root_key(root), storage.join(root, FORGOTTEN, KEY_CHECK)
    check = storage.read_if_there(location)
    if check is None:
        _require_known(root, key)
        storage.write_new(location, _name_of(key).encode())
    elif check.decode("ascii", "replace").strip() != _name_of(key):
        raise _lost_key(root, f"is not the key that {FORGOTTEN}/{KEY_CHECK} was made of")
    return key


def forgetting(root: str) -> Callable[[str], bool]:
    """Return a function that tells whether runs under the root must leave out a user id.

    Raises:
        StorageError: as for `receipts_key`.
    """
    forgotten = forgotten_pseudonyms(root)
    key = receipts_key(root) if forgotten else ""
    return lambda user_id: pseudonym(user_id, key) in forgotten
