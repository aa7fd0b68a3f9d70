"""Ledger of the stages that a sweep has computed, over all of its attempts: one small file per computation.

Entries are written where the work is done, so that a stage computed by two trials would show up twice.
"""

import uuid
from collections import Counter
from dataclasses import dataclass

from hydra_ray import storage
from hydra_ray.runs.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Ledger of one sweep."""

    folder: str

    def record(self, stage: Stage, run: str) -> None:
        """Record that the run has just computed `stage`."""
        name = f"{stage.name}-{stage.fingerprint}-{uuid.uuid4().hex[:8]}.json"
        storage.write_json(storage.join(self.folder, name), {"stage": stage.name, "run": run})

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how often each stage was computed, by name and fingerprint."""
        names = [name.removesuffix(".json").rsplit("-", 2) for name in storage.list_files(self.folder)]
        return Counter((stage, fingerprint) for stage, fingerprint, _ in names)
