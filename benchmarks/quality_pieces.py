"""Pieces of the quality benchmark: what page and bars need of each finished run, a small file each in the repository.

A run takes hours, and a machine is often lent for less: each run is kept as soon as it is finished, and the page is
written from what is kept. No text and no user's id is kept. Users have a hash keyed with the digest of the set's own
files, so that whoever has the set finds its users again and nobody else, and the same users match over runs; the split,
which stands before the id, stays.

`settings.json` beside the pieces says which settings were frozen when.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import machine

from hydra_ray.adapt.own_model import PredictedGain
from hydra_ray.config import RunConfig
from hydra_ray.evaluate.phrases import Report
from hydra_ray.runs.settings import settings_of

Piece = Mapping[str, Any]
"""What is kept of a run: keys of its metrics.json, and `measured`, `machine`, `seconds`, `settings_digest` and
`predicted_gain`. Or what is kept of own heads without a generator (see `own_heads`)."""

SETTINGS = "settings.json"
DIGITS = 5
_KEPT = (
    "run",
    "task",
    "quality_title",
    "num_users",
    "num_queries",
    "bootstrap",
    "best_prompt_baseline",
    "history_curve",
    "changed_answers",
    "harm",
)
_PLACES = {"run", "storage", "placement", "budget"}
"""Sections on which no quality depends."""


def run_piece(report: Report, config: RunConfig, measured: datetime, gain: PredictedGain | None) -> dict[str, Any]:
    """Return what is kept of a finished run.

    Args:
        measured: when its report was made.
        gain: of own heads, as its histories predict it; None where they were not fitted.
    """
    systems = {
        name: {"title": system["title"], "quality": system["quality"]} for name, system in report["systems"].items()
    }
    return {
        **stamp(settings_of_run(config), measured, report["totals"]["seconds"]),
        **{name: report[name] for name in _KEPT},
        "task": {name: report["task"][name] for name in ("name", "kind")},
        "config": settings_of_run(config),
        "predicted_gain": None if gain is None else asdict(gain),
        "systems": systems,
        "gate": {name: {"num_queries": choice["num_queries"]} for name, choice in report["gate"].items()},
        # Reports of earlier versions have none.
        "best_of_n": report.get("best_of_n"),
        "stages": [{name: stage[name] for name in ("name", "seconds")} for stage in report["stages"]],
        "users": _hashed(report["users"], _key_of(config)),
    }


def stamp(settings: Mapping[str, Any], measured: datetime, seconds: float) -> dict[str, Any]:
    """Return when and where a piece was measured, and the digest of its settings."""
    return {
        "measured": f"{measured:%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "seconds": seconds,
        "settings_digest": digest_of(settings),
    }


def settings_of_run(config: RunConfig) -> dict[str, Any]:
    """Return the settings that a run's qualities depend on, without places on this machine."""
    settings = settings_of(config, exclude=_PLACES)
    lamp = {name: value for name, value in settings["lamp"].items() if name not in ("root", "users_files")}
    return {**settings, "lamp": lamp}


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return the digest of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def freeze(folder: Path, digests: Mapping[str, str], now: datetime) -> None:
    """Write down the settings of every run as those that its results must have been measured with. Runs whose settings
    were frozen before, and are the same, keep their time."""
    folder.mkdir(parents=True, exist_ok=True)
    before = frozen_settings(folder) or {"digests": {}}
    same = [run for run, digest in sorted(digests.items()) if before["digests"].get(run) == digest]
    content = {
        "frozen": f"{now:%Y-%m-%d %H:%M} UTC",
        "since": {run: frozen_since(before, run) for run in same},
        "digests": dict(sorted(digests.items())),
    }
    (folder / SETTINGS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def frozen_settings(folder: Path) -> Mapping[str, Any] | None:
    """Return what `freeze` wrote: `frozen`, the time, `digests` by run, and `since`, an earlier time by run; None where
    nothing is frozen."""
    path = folder / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def frozen_since(frozen: Mapping[str, Any], run: str) -> str:
    """Return the time since which a run's settings are frozen."""
    return frozen.get("since", {}).get(run, frozen["frozen"])


def keep(folder: Path, name: str, piece: Piece) -> None:
    """Write a piece, each of its keys in a line, its figures rounded."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(_rounded(value), ensure_ascii=False)}" for key, value in piece.items()]
    (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def kept(folder: Path) -> dict[str, Piece]:
    """Return all pieces by the names of their runs."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != SETTINGS]
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def finished_at(path: Path) -> datetime:
    """Return when a file was written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _hashed(users: Mapping[str, Any] | None, key: bytes) -> dict[str, Any] | None:
    return None if users is None else {**users, "user_id": [_hash_of(each, key) for each in users["user_id"]]}


def _hash_of(user_id: str, key: bytes) -> str:
    split, colon, _ = user_id.partition(":")
    return f"{split if colon else ''}{colon}{hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()[:12]}"


def _key_of(config: RunConfig) -> bytes:
    """Return the digest of the files that a run's users come from; that of nothing for a planted sample."""
    digest = hashlib.sha256()
    if config.lamp.root is not None:
        for path in sorted(Path(config.lamp.root).glob("*.json*")):
            digest.update(path.read_bytes())
    return digest.digest()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
