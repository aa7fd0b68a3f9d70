"""Making and renewing of listings (see `hydra_ray.storage.listings`), and the check of a whole folder against one."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from hydra_ray.errors import DamagedError
from hydra_ray.findings import counted
from hydra_ray.storage.files import content_digest, exists, file_sizes, join, present, read_json, write_json
from hydra_ray.storage.listings import FILES, MANIFEST, RUN_FILES, forget_listing
from hydra_ray.storage.recording import recorded_below

_THREADS = 32


def digests_of(folder: str, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the digests of some files of a folder, by path; what was recorded as it was written is not read.

    Raises:
        StorageError: a file is missing, or the footer of a table is damaged.
    """
    recorded = recorded_below(folder)
    sizes = file_sizes(folder) if recorded else {}

    def digest(path: str) -> str:
        written = recorded.get(path)
        if written is not None and written.num_bytes == sizes.get(path):
            return written.digest
        return content_digest(join(folder, path))

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(paths, pool.map(digest, paths), strict=True))


@contextmanager
def rewriting(folder: str, paths: Sequence[str], new_listing: str | None = None) -> Iterator[None]:
    """Let files of a folder change during the block: its listing names no digest of them before, the new ones after it.

    A process that is killed in the block leaves files that are not compared, until the next call for the folder lists
    them. A folder without a listing of digests stays so, unless one is asked for.

    Args:
        new_listing: name of the listing to begin where there is none.
    """
    known = [join(folder, name) for name in (MANIFEST, RUN_FILES)]
    listing = next((each for each in known if exists(each)), None)
    found = {FILES: {}} if listing is None else read_json(listing)
    if listing is None and new_listing is not None:
        listing = join(folder, new_listing)
    if listing is None or FILES not in found:
        yield
        return
    open_paths = sorted({*paths, *(path for path, digest in found[FILES].items() if digest is None)})
    if not open_paths:
        yield
        return
    write_json(listing, {**found, FILES: found[FILES] | dict.fromkeys(open_paths)})
    yield
    are_there = present([join(folder, path) for path in open_paths])
    left = [path for path, is_there in zip(open_paths, are_there, strict=True) if is_there]
    gone = {*open_paths} - {*left}
    kept = {path: digest for path, digest in found[FILES].items() if path not in gone}
    write_json(listing, {**found, FILES: kept | digests_of(folder, left)})
    forget_listing(listing)


def require_files(folder: str, digests: Mapping[str, str | None], what: str, advice: str) -> None:
    """Check that a folder holds the files that were listed of it.

    Args:
        what: the folder, for the error.
        advice: what to do.

    Raises:
        DamagedError: a file is missing, or is another one.
    """
    are_there = present([join(folder, path) for path in digests])
    missing = [path for path, is_there in zip(digests, are_there, strict=True) if not is_there]
    if missing:
        raise DamagedError(
            f"{what} lacks {len(missing)} of its {len(digests)} files, such as {join(folder, missing[0])}. {advice}"
        )
    found = digests_of(folder, list(digests))
    changed = [path for path, digest in digests.items() if digest not in (None, found[path])]
    if changed:
        raise DamagedError(
            f"{what} holds {counted(len(changed), 'file')} damaged or not its own, such as "
            f"{join(folder, changed[0])}: the digests are not those that were written. {advice}"
        )
