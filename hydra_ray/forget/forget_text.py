"""Input and output of `hydra-ray forget`."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from hydra_ray import storage
from hydra_ray.errors import InputError
from hydra_ray.findings import counted
from hydra_ray.forget.lineage import Learned
from hydra_ray.forget.removal import Outcome
from hydra_ray.runs.root import receipt_location


def given_users(user_ids: Sequence[str], users_file: str | None) -> list[str]:
    """Return the user ids given as arguments and those in a file, one a line.

    Raises:
        InputError: the file cannot be read, or there is no id.
    """
    found = list(user_ids)
    if users_file is not None:
        try:
            found += filter(None, storage.read_bytes(users_file).decode("utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read user ids from {users_file}: {error}") from error
    if not found:
        raise InputError("nobody to forget: give user ids, or --users-file with one a line")
    return found


def outcome_lines(root: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield one line per user, then what could not be removed of the users removed by this call."""
    for outcome in outcomes:
        yield f"{outcome.user_id}: {_fate(root, outcome)}"
    receipts = [each.receipt for each in outcomes if each.receipt is not None and each.is_removed_now]
    learned = sorted({each for receipt in receipts for each in receipt.learned}, key=str)
    if learned:
        yield "learned from them, among others:"
    for (folder, cohort), parts in groupby(learned, key=lambda each: (each.path.rpartition("/")[0], _cohort(each))):
        yield f"  {folder}/{{{','.join(each.path.rpartition('/')[2] for each in parts)}}} ({cohort})"
    yield from dict.fromkeys(line for receipt in receipts for line in receipt.remains)


def _cohort(learned: Learned) -> str:
    if learned.cohort is None or learned.num_users is None:
        return "cohort unknown"
    return f"{counted(learned.num_users, 'user')} of {learned.cohort}"


def _fate(root: str, outcome: Outcome) -> str:
    receipt = outcome.receipt
    if receipt is None:
        return "unknown: in no table below the root, and not forgotten before"
    if not outcome.is_removed_now:
        return f"nothing is left, forgotten at {receipt.finished_at}"
    count = sum(each.count for each in receipt.removed)
    location = receipt_location(root, receipt.user)
    return f"forgotten: {count} rows and entries in {len(receipt.removed)} files; receipt: {location}"
