"""Supports: the records from which a held-out record is asked.

The support of a record holds neither the record's block nor any record that shares an item with one of the block: codes
and inputs that read the support never see what they are asked. A record is about one item, such as a text that is
labelled, or about several, such as the candidates of a choice. Dated records are asked from earlier blocks only.

Shape suffixes: U users, G records, K blocks, N candidates of the records, R code width, I items, M items of records.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydra_ray.scorer.linear.groups import Bools, Floats, Ints, starts_of
from hydra_ray.scorer.linear.newton import Regression

NUM_BLOCKS = 8
"""Number of blocks of a user's records that are held out in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Blocks in which records are asked, and the records that may be used then."""

    block_G: Ints
    """Block in which a record is asked; -1 for a record that is never asked."""
    has_KG: Bools
    """Whether a record may be used when its user's block is asked."""
    age_KG: Floats
    """Number of the user's records between a record and the asked block; 0 where records have no dates."""

    @property
    def blocks(self) -> Sequence[int]:
        """Blocks in which some record is asked."""
        return np.unique(self.block_G[self.block_G >= 0]).tolist()

    def weights(self, block: int, half_life: float) -> Floats:
        """Return the weight of each record when the block is asked (G); 0 leaves a record out."""
        return self.has_KG[block] * decay(self.age_KG[block], half_life)

    def of_records(self, is_kept_G: Bools) -> "Support":
        """Return the support with only the records of the mask."""
        return Support(
            block_G=self.block_G[is_kept_G], has_KG=self.has_KG[:, is_kept_G], age_KG=self.age_KG[:, is_kept_G]
        )

    @classmethod
    def of_folds(cls, fold_G: Ints) -> "Support":
        """Return the support of undated records, each asked with its fold left out."""
        has_KG = np.arange(fold_G.max(initial=0) + 1)[:, None] != fold_G
        return cls(block_G=fold_G, has_KG=has_KG, age_KG=np.zeros(has_KG.shape, np.float32))

    @classmethod
    def joined(cls, parts: Sequence["Support"]) -> "Support":
        """Return the supports of several users as one."""
        return cls(
            block_G=np.concatenate([part.block_G for part in parts]),
            has_KG=np.concatenate([part.has_KG for part in parts], axis=1),
            age_KG=np.concatenate([part.age_KG for part in parts], axis=1),
        )


def decay(age: Floats, half_life: float) -> Floats:
    """Return the weight of a record of an age, in records: (1/2)^(age / half-life)."""
    return np.exp2(-age / half_life)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Items:
    """Items of one user's records, numbered in the order in which they first come."""

    item_M: Ints
    starts_G: Ints
    num_items: int

    @classmethod
    def of(cls, items: Sequence[Sequence[str]]) -> "_Items":
        numbers: dict[str, int] = {}
        item_M = [numbers.setdefault(item, len(numbers)) for own in items for item in own]
        starts_G = starts_of([len(own) for own in items])[:-1]
        return cls(item_M=np.array(item_M, np.int64), starts_G=starts_G, num_items=len(numbers))

    def lowest(self, value_I: Ints) -> Ints:
        """Return the lowest value of each record's items (G)."""
        return np.minimum.reduceat(value_I[self.item_M], self.starts_G) if len(self.starts_G) else self.starts_G

    def shares_with(self, block_G: Ints) -> Bools:
        """Return whether each record shares an item with a record of each block (K, G); each does with its own, and
        with a block of -1 it is in none."""
        sizes_G = np.diff(self.starts_G, append=len(self.item_M))
        is_asked_KI = np.zeros((NUM_BLOCKS, self.num_items), bool)
        block_M = np.repeat(block_G, sizes_G)
        is_asked_KI[block_M[block_M >= 0], self.item_M[block_M >= 0]] = True
        if not len(block_G):
            return np.zeros((NUM_BLOCKS, 0), bool)
        return np.logical_or.reduceat(is_asked_KI[:, self.item_M], self.starts_G, axis=1)


def undated_support(items: Sequence[Sequence[str]], rng: np.random.Generator) -> Support:
    """Return the support of one user's records without dates, in NUM_BLOCKS blocks.

    Items are divided at random, and a record goes where the first of its items by that order does: so records that
    share an item are mostly in one block, and few others have to be left out with it.

    Args:
        items: items of each record, at least one.
    """
    found = _Items.of(items)
    block_G = found.lowest(rng.permutation(found.num_items)) % NUM_BLOCKS
    has_KG = ~found.shares_with(block_G)
    return Support(block_G=block_G, has_KG=has_KG, age_KG=np.zeros(has_KG.shape, np.float32))


def dated_support(items: Sequence[Sequence[str]], dates: Sequence[int]) -> Support:
    """Return the support of one user's dated records: NUM_BLOCKS blocks in order of time, of which earlier ones are
    used, without items of the block that is asked. The first block is never asked.
    """
    num_records = len(items)
    place_G = _places(dates)
    block_G = place_G * NUM_BLOCKS // max(num_records, 1)
    blocks = np.arange(NUM_BLOCKS)[:, None]
    start_K1 = _block_starts(place_G, block_G, num_records)
    first = block_G.min(initial=NUM_BLOCKS)
    return Support(
        block_G=np.where(block_G == first, -1, block_G),
        has_KG=(block_G < blocks) & ~_Items.of(items).shares_with(block_G),
        age_KG=np.maximum(start_K1 - 1 - place_G, 0).astype(np.float32),
    )


def later_support(
    items: Sequence[Sequence[str]], is_known_G: Bools, dates: Sequence[int] | None, rng: np.random.Generator
) -> Support:
    """Return the support of one user's later records, each asked from those that were known before all of them.

    They are asked in NUM_BLOCKS blocks: dated ones in order of time, and from known records that are not later; others
    divided as by `undated_support`. Known records are never asked.

    Args:
        items: items of each record, at least one.
        is_known_G: whether each was known before.
        dates: date of each record; None where records have none.
    """
    found = _Items.of(items)
    num_records, num_later = len(items), int(np.count_nonzero(~is_known_G))
    if dates is None:
        block_G = np.where(is_known_G, -1, found.lowest(rng.permutation(found.num_items)) % NUM_BLOCKS)
        has_KG = is_known_G & ~found.shares_with(block_G)
        return Support(block_G=block_G, has_KG=has_KG, age_KG=np.zeros(has_KG.shape, np.float32))
    place_G = _places(dates)
    rank_G = np.searchsorted(np.sort(place_G[~is_known_G]), place_G)
    block_G = np.where(is_known_G, -1, rank_G * NUM_BLOCKS // max(num_later, 1))
    start_K1 = _block_starts(place_G, block_G, num_records)
    return Support(
        block_G=block_G,
        has_KG=is_known_G & (place_G < start_K1) & ~found.shares_with(block_G),
        age_KG=np.maximum(start_K1 - 1 - place_G, 0).astype(np.float32),
    )


def _places(dates: Sequence[int]) -> Ints:
    """Return the place of each record in order of time (G)."""
    place_G = np.empty(len(dates), np.int64)
    place_G[np.argsort(np.array(dates, np.int64), kind="stable")] = np.arange(len(dates))
    return place_G


def _block_starts(place_G: Ints, block_G: Ints, num_records: int) -> Ints:
    """Return the first place of each block (K, 1), after all records for one that is empty."""
    starts = [place_G[block_G == block].min(initial=num_records) for block in range(NUM_BLOCKS)]
    return np.array(starts)[:, None]


def held_out_scores(regression: Regression, variances_R: Floats, support: Support, half_life: float = np.inf) -> Floats:
    """Return each candidate's score by its user's code, fitted to the support of the candidate's record (N); of records
    that are never asked the offsets.

    Args:
        half_life: age, in records, at which a dated record counts half.
    """
    table = regression.table
    user_N, block_N = table.user_of_candidate(), support.block_G[table.group_of_candidate()]
    scores_N = regression.offsets_N.astype(np.float64)
    for block in support.blocks:
        # A start from another block's codes would leave traces of what this one is asked.
        codes_UR = regression.codes(variances_R, support.weights(block, half_life))
        rows = block_N == block
        scores_N[rows] += np.einsum("nr,nr->n", regression.inputs_NR[rows], codes_UR[user_N[rows]])
    return scores_N
