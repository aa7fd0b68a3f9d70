"""Retry of failed requests: only these are repeated, and everything derived from them is computed again.

A retry changes no setting, so stages keep their fingerprints. Stages that depend, directly or not, on a table with
failed answers are removed in all runs under the root, and computed again when these runs are next started; the parts
with the failed answers are removed last. After a kill, repeat the retry; once these parts are gone, running the
configuration continues it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from hydra_ray import storage
from hydra_ray.errors import ConfigError
from hydra_ray.findings import counted
from hydra_ray.generate.failures import ERRORS, TRANSIENT, FailureKind
from hydra_ray.rows import Failure, arrow_schema, from_table
from hydra_ray.runs.lease import alone
from hydra_ray.runs.run_folder import recorded_fingerprints
from hydra_ray.runs.stage import MANIFEST, Stage, read_manifest
from hydra_ray.stages.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStage:
    """A stage some of whose answers failed."""

    stage: Stage
    table: str
    """Name of the table that is made of the answers."""
    failures: Mapping[int, Sequence[Failure]]
    """Failures by bucket; only buckets that have any."""

    def kinds(self) -> Counter[str]:
        """Return the number of failures of each kind."""
        return Counter(failure.kind for failures in self.failures.values() for failure in failures)


def failed_stages(plan: Plan, kinds: Collection[str] | None = None) -> list[FailedStage]:
    """Return the generating stages of a run whose committed parts contain failures.

    Args:
        kinds: kinds of failures to include; all by default.
    """
    found = [
        FailedStage(stage=stage, table=definition.tables(plan)[0], failures=dict(_failures(stage, kinds)))
        for definition, stage in plan.made()
        if definition.asks is not None
    ]
    return [each for each in found if each.failures]


def clear_failures(plan: Plan, kinds: Collection[str]) -> list[FailedStage]:
    """Remove failed answers and everything derived from them; running the configuration computes both again.

    Args:
        kinds: kinds of failures to retry.

    Returns:
        The removed failures by stage.

    Raises:
        StorageError: a run is active below the root, and nothing was changed.
    """
    with alone(plan.config.storage.root, "retry"):
        found = failed_stages(plan, kinds)
        changed = {each.stage.fingerprint for each in found}
        for folder in _dependents(plan, changed).values():
            storage.remove_file(storage.join(folder, MANIFEST))
            storage.remove_folder(folder)
        for each in found:
            _clear(plan, each)
        return found


def runs_to_repeat(plan: Plan, failed: Iterable[FailedStage]) -> list[str]:
    """Return the folders of the other finished runs under the root with results that depended on failed answers."""
    changed = {each.stage.fingerprint for each in failed}
    runs = storage.join(plan.config.storage.root, "runs")
    names = {path.split("/", 1)[0] for path in storage.list_tree(runs)}
    folders = [storage.join(runs, name) for name in sorted(names)]
    return [each for each in folders if each != plan.run_folder and changed & recorded_fingerprints(each)]


def retry_lines(cleared: Sequence[FailedStage], left: Sequence[FailedStage]) -> Iterator[str]:
    """Yield lines on which failures are retried and which are not.

    Args:
        left: failures that are not retried.
    """
    for each in cleared:
        yield f"{each.stage.name}: {_listed(each.kinds())} retried, in {counted(len(each.failures), 'part')}"
    for each in left:
        others = " ".join(f"--kind {kind}" for kind in sorted(each.kinds()))
        yield f"{each.stage.name}: {_listed(each.kinds())} not retried; to do so: {others}"
    if not cleared and not left:
        yield "no answer failed"


def checked_kinds(kinds: Collection[str]) -> Collection[str]:
    """Return the given kinds of failures, or the transient ones if none are given.

    Raises:
        ConfigError: there is no such kind.
    """
    if unknown := sorted(set(kinds) - set(FailureKind)):
        raise ConfigError(
            f"there are no failures of the kind {unknown}; expected {[str(each) for each in FailureKind]}"
        )
    return kinds or TRANSIENT


def _failures(stage: Stage, kinds: Collection[str] | None) -> Iterator[tuple[int, list[Failure]]]:
    for bucket in stage.buckets:
        location = stage.part(ERRORS, bucket)
        if storage.exists(location):
            rows = from_table(storage.read_part(location, arrow_schema(Failure)), Failure)
            failures = [row for row in rows if kinds is None or row.kind in kinds]
            if failures:
                yield bucket, failures


def _clear(plan: Plan, failed: FailedStage) -> None:
    """Remove the parts with failures and the stored completions that would repeat them; the manifest is removed
    first."""
    stage = failed.stage
    storage.remove_file(stage.manifest_location)
    for bucket, failures in failed.failures.items():
        if kept := {failure.request_id for failure in failures if failure.kind not in TRANSIENT}:
            plan.completions.drop(bucket, kept)
        storage.remove_file(stage.part(failed.table, bucket))
        storage.remove_file(stage.part(ERRORS, bucket))


def _dependents(plan: Plan, changed: Set[str]) -> dict[str, str]:
    """Return the folders, by fingerprint, of the stages under the root that depend on a changed one, directly or not.

    Stages of this run may be incomplete; of other runs only stages with a manifest are known.
    """
    stages = storage.join(plan.config.storage.root, "stages")
    manifests = [
        read_manifest(storage.join(stages, path)) for path in storage.list_tree(stages) if path.endswith(f"/{MANIFEST}")
    ]
    known = [(each["stage"], each["fingerprint"], each["inputs"]) for each in manifests]
    known += [(stage.name, stage.fingerprint, stage.inputs) for stage in plan.stages()]
    found: dict[str, str] = {}
    while True:
        reached = changed | found.keys()
        new = {
            fingerprint: storage.join(stages, *name.split("."), fingerprint)
            for name, fingerprint, inputs in known
            if fingerprint not in reached and reached & set(inputs)
        }
        if not new:
            return found
        found |= new


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
