"""Listings: files that name the other files of their folder with the digest of each.

The folder of a stage has its manifest, that of a run `files.json`. Whatever is read below such a folder is compared
with what the listing says of it, so that a file that was exchanged for another one is found too, not only one whose own
seal is broken. A file that its listing does not name, or names without a digest because it is just being rewritten, is
not compared; neither is any where there is no listing yet.
"""

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from hydra_ray.errors import DamagedError
from hydra_ray.storage.locations import store_of
from hydra_ray.storage.recording import is_recorded
from hydra_ray.storage.seals import unsealed

MANIFEST = "manifest.json"
"""Name of the listing of a stage's folder."""
RUN_FILES = "files.json"
"""Name of the listing of a run's folder."""
FILES = "files"
"""Key in a listing: digests by path; null where a file is being rewritten."""
_STAGE = re.compile(r"(?P<folder>.+/stages/[a-z_]+(/[a-z_]+)?/[0-9a-f]{16})/(?P<path>.+)")
_RUN = re.compile(r"(?P<folder>.+/runs/[^/]+)/(?P<path>[^/]+)")
_MAX_KEPT = 256
"""Number of listings that are kept in memory."""
_ABSENCE_SECONDS = 10.0
"""Time for which a listing that was not there is not looked for again: files are read by the hundred while a stage is
computed, and its listing comes last."""

_log = logging.getLogger(__name__)
_kept: dict[str, Mapping[str, str | None]] = {}
_absent: dict[str, float] = {}
"""Until when listings that were not there are taken for absent, in monotonic seconds."""
_told: set[str] = set()

Digests = Mapping[str, str | None]


def require_listed(location: str, digest: str, anew: str) -> None:
    """Check the digest of a file's content against the listing of its folder, where there is one.

    Args:
        anew: what to do where it differs.

    Raises:
        DamagedError: the listing names another one, or is itself damaged.
    """
    found = listing_of(location)
    if found is None or is_recorded(location):  # a stage that is being computed has no listing yet
        return
    listing, path = found
    is_kept = listing in _kept
    expected = _listed(listing).get(path)
    if is_kept and expected not in (None, digest):
        # What is kept may be of a stage that was computed anew since.
        _kept.pop(listing, None)
        expected = _listed(listing).get(path)
    if expected not in (None, digest):
        raise DamagedError(
            f"{location} is damaged, or not the file that was written: its digest is {digest}, but {listing} says "
            f"{expected}. {anew}"
        )


def is_listed(location: str) -> bool | None:
    """Return whether the listing of its folder names a file; None where there is no listing of digests."""
    found = listing_of(location)
    if found is None:
        return None
    listing, path = found
    files = _listed(listing)
    return (path in files) if files else None


def _listed(listing: str) -> Digests:
    kept = _kept.get(listing)
    if kept is not None:
        return kept
    if _absent.get(listing, 0.0) > time.monotonic():
        return {}
    found = read_listing(listing)
    if found is None:
        _make_room(_absent)
        _absent[listing] = time.monotonic() + _ABSENCE_SECONDS
    return found or {}


def forget_listing(listing: str) -> None:
    """Read a listing anew when it is next needed, because it was just written."""
    _kept.pop(listing, None)
    _absent.pop(listing, None)


def listing_of(location: str) -> tuple[str, str] | None:
    """Return the location of the listing that may name a file, and the file's path in it."""
    for pattern, name in ((_STAGE, MANIFEST), (_RUN, RUN_FILES)):
        match = pattern.fullmatch(location)
        if match is not None:
            return None if match["path"] == name else (f"{match['folder']}/{name}", match["path"])
    return None


def read_listing(listing: str) -> Digests | None:
    """Return the digests that a listing names, by path; None where there is no listing, none in one without digests.

    Raises:
        DamagedError: it is not what was written.
    """
    _kept.pop(listing, None)
    store, path = store_of(listing)
    content = store.content(path)
    if content is None:
        return None
    try:
        found = unsealed(content)
    except ValueError as error:
        raise damaged_listing(listing, str(error)) from error
    # Manifests of earlier versions list no files, but name their stage.
    files = found.get(FILES, {} if "stage" in found else None) if isinstance(found, dict) else None
    if not isinstance(files, dict):
        raise damaged_listing(listing, "it is no listing of files")
    if FILES not in found:
        _tell_unlisted(listing)
    if None not in files.values():  # else a file is being rewritten, and is to be compared once it has its digest
        _keep(listing, files)
    return files


def _keep(listing: str, files: Digests) -> None:
    _absent.pop(listing, None)
    _make_room(_kept)
    _kept[listing] = files


def _make_room(known: dict[str, Any]) -> None:
    # Copied in one step, as other threads keep listings too.
    for oldest in list(known)[: max(len(known) + 1 - _MAX_KEPT, 0)]:
        known.pop(oldest, None)


def damaged_listing(listing: str, reason: str) -> DamagedError:
    """Return the error for a listing that is damaged."""
    return DamagedError(
        f"{listing} is damaged: {reason}. Restore it from a backup; or remove it and run again: what is there is then "
        "listed anew, after the seal of each table has been checked."
    )


def _tell_unlisted(listing: str) -> None:
    root = listing.partition("/stages/")[0]
    if root not in _told:
        _told.add(root)
        _log.info(
            "%s holds stages of an earlier version, which recorded no digests: of these only the checksums of pages are"
            " checked",
            root,
        )
