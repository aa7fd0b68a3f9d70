"""Reasons of rejected samples, the commonest first."""

import re
from collections.abc import Iterable, Iterator

from hydra_ray.rows import Rejected

_PARTICULARS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+""")
"""What tells two reasons of a kind apart: quoted ids, and numbers."""
_MAX_KINDS = 1000
_SHOWN = 3


class Reasons:
    """Number of rejected samples of each kind of reason, with the first of each."""

    def __init__(self, rejected: Iterable[Rejected] = ()):
        self.num_rejected = 0
        self._num: dict[str, int] = {}
        self._first: dict[str, Rejected] = {}
        for each in rejected:
            self.add(each)

    def add(self, rejected: Rejected) -> None:
        """Count a rejected sample."""
        self.num_rejected += 1
        kind = _PARTICULARS.sub("_", rejected.reason)
        if kind in self._num or len(self._num) < _MAX_KINDS:
            self._num[kind] = self._num.get(kind, 0) + 1
            self._first.setdefault(kind, rejected)

    def __iter__(self) -> Iterator[str]:
        """Yield the commonest reasons, each with its count and the place of its first sample."""
        for kind, number in sorted(self._num.items(), key=lambda pair: -pair[1])[:_SHOWN]:
            first = self._first[kind]
            yield f"{number} x {first.reason} (first at position {first.position} of {first.source})"
