"""Random numbers that depend on nothing but a seed and the names of what they are for."""

import hashlib

import numpy as np


def seed_of(seed: int, *names: str) -> int:
    """A 63-bit seed for what `names` say; independent of order of work, of process and of machine."""
    digest = hashlib.blake2b("\x1f".join([str(seed), *names]).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """A random generator for what `names` say."""
    return np.random.default_rng(seed_of(seed, *names))
