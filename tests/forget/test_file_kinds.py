from pathlib import Path

import pytest

from hydra_ray import storage
from hydra_ray.errors import StorageError
from hydra_ray.forget.file_kinds import Kind, artefacts

STAGE = "ab" * 8
KINDS = {
    f"stages/users/{STAGE}/users/bucket-00000.parquet": Kind.TABLE,
    f"stages/users/{STAGE}/rejected/bucket-00007.parquet": Kind.REJECTED,
    f"stages/probes/{STAGE}/retrieved/bucket-00000.parquet": Kind.TABLE,
    f"stages/reranker/features/{STAGE}/features/base-1/bucket-00000.parquet": Kind.TABLE,
    f"stages/adapter/heads/{STAGE}/scores/fold-0/bucket-00000.parquet": Kind.TABLE,
    f"stages/adapter/heads/{STAGE}/population-1/population.safetensors": Kind.LEARNED,
    f"stages/adapter/heads/{STAGE}/population-1/population.json": Kind.LEARNED,
    f"stages/reranker/base/{STAGE}/base/model.safetensors": Kind.LEARNED,
    f"stages/reranker/base/{STAGE}/base-3/base.json": Kind.LEARNED,
    f"stages/adapter/labeller/{STAGE}/labeller.safetensors": Kind.LEARNED,
    f"stages/answers/{STAGE}/predictions.json": Kind.PREDICTIONS,
    f"stages/answers/{STAGE}/predictions.parquet": Kind.TABLE,
    f"stages/report/{STAGE}/metrics.json": Kind.REPORT,
    f"stages/report/{STAGE}/report.html": Kind.PAGE,
    f"completions/{STAGE}/bucket-00000/probes-{STAGE}-{STAGE}.parquet": Kind.ANSWERS,
    "runs/a.run+more/config.json": Kind.RECORD,
    "runs/a.run+more/outline.json": Kind.RECORD,
    "runs/a.run/stages.json": Kind.RECORD,
    "runs/a.run+more/summary.json": Kind.RECORD,
    "runs/a.run/predictions.json": Kind.PREDICTIONS,
    "runs/a.run/predictions.parquet": Kind.TABLE,
    "runs/a.run/metrics.json": Kind.REPORT,
    "runs/a.run/report.html": Kind.PAGE,
    f"forgotten/{STAGE}{STAGE}.json": Kind.RECORD,
    "forgotten/key.check": Kind.RECORD,
    "key": Kind.RECORD,
    "lease.json": Kind.LEASE,
    "leases/a.run+more/lease.json": Kind.LEASE,
    f"stages/adapter/heads/{STAGE}/lease.json": Kind.LEASE,
    f"stages/probes/{STAGE}/probes/bucket-00000.parquet.damaged": Kind.UNFINISHED,
    f"stages/drafts/{STAGE}/drafts/bucket-00000.parquet.{STAGE}{STAGE}.tmp": Kind.UNFINISHED,
    f"stages/reranker/base/{STAGE}/train/zero1-workers1/checkpoint/progress.safetensors": Kind.UNFINISHED,
    f"stages/reranker/heads/{STAGE}/tune/heads/tuner.pkl": Kind.UNFINISHED,
}
MANIFESTS = {f"{path.split(STAGE)[0]}{STAGE}/manifest.json": Kind.RECORD for path in KINDS if path.startswith("stages")}


def kinds_below(root: Path, *paths: str) -> dict[str, Kind]:
    for path in paths:
        storage.write_bytes(storage.join(str(root), path), b"")
    return {each.path: each.kind for each in artefacts(str(root))}


def test_every_file_of_a_root_has_a_kind(tmp_path: Path):
    assert kinds_below(tmp_path, *KINDS, *MANIFESTS) == KINDS | MANIFESTS


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        f"stages/users/{STAGE}/users/bucket-00000.csv",
        f"stages/users/{STAGE}/by_user.json",
        f"stages/users/{STAGE}/base/user.json/deeper",
        f"stages/report/{STAGE}/users.json",
        "runs/a.run/users.json",
        f"completions/{STAGE}/index.parquet",
        "forgotten/ann.json",
    ],
)
def test_a_file_of_no_known_kind_stops_everything(tmp_path: Path, path: str):
    with pytest.raises(StorageError, match=r"1 files .* unknown kinds.* users cannot be removed") as error:
        kinds_below(tmp_path, *KINDS, path)
    assert path in str(error.value)


def test_what_an_incomplete_stage_had_learned_is_unfinished(tmp_path: Path):
    found = kinds_below(tmp_path, *KINDS)
    for path, kind in found.items():
        is_teaching = kind != Kind.LEASE and any(f"/{name}/{STAGE}" in path for name in ("base", "heads", "labeller"))
        assert kind == (Kind.UNFINISHED if is_teaching else KINDS[path])
