"""Random seeds derived from a base seed and names alone."""

import hashlib

import numpy as np


def seed_of(seed: int, *names: str) -> int:
    """Return a 63-bit hash of a seed and names; independent of the order of work, the process and the machine."""
    digest = hashlib.blake2b("\x1f".join([str(seed), *names]).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """Return a random generator seeded by `seed_of`."""
    return np.random.default_rng(seed_of(seed, *names))
