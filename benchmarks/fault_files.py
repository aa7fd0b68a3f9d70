"""Disturbed work on files: reading users, exports, added users, the root's key, damaged artefacts, an object store.

Every attempt is one process that does all of the work; see `fault_process.py`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import fault_s3
from fault_checks import Difference, compare
from fault_cluster import share_modules
from fault_drivers import HangError
from fault_flips import contents, files_of, first_computed, flip_bit, follow_advice, link_tree, remove_from
from fault_outcomes import MAX_ATTEMPTS, NO_DIFFERENCE, Attempts, Outcome
from fault_points import Point, reached
from fault_process import End, Work, attempt, temporary_folder, work_on
from fault_runs import LEARNED, fault_config
from fault_s3 import BUCKET, FaultyS3
from fault_schedules import Schedule, Trouble

from hydra_ray.commands.update import update_config
from hydra_ray.config import RunConfig
from hydra_ray.generate.completion_store import asker_of
from hydra_ray.lamp.tasks import PLANTED_LABELS
from hydra_ray.rows import User, arrow_schema
from hydra_ray.runs.run_folder import read_config, run_folder_of, write_config
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.storage import read_part

_S3_UNTIL = "probes"
_S3_STAGES = ("users", "profiles", "probes")
_FOREVER = 20_000
"""More requests than an attempt makes."""
_STORM_REQUESTS, _STORM_SHARE = 400, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesReference:
    """Undisturbed work."""

    plan: Plan
    """Finished run."""
    child: Plan
    """Run that added users to it, as far as its answers."""
    users: str
    """File of the added users."""
    export: Path
    scores: Any
    """Scores of one request by the export."""
    scored_user: str
    s3: FaultyS3
    reached: Mapping[str, Mapping[Point, int]]
    """Number of times that each point is reached, by trouble."""
    num_s3_requests: int
    """Number of requests to the object store."""


@contextmanager
def files_reference(folder: Path, deadline_seconds: float) -> Iterator[FilesReference]:
    """Do all work undisturbed."""
    share_modules()
    s3 = FaultyS3()
    s3.start()
    os.environ.update(s3.environment)
    try:
        yield _make_reference(folder, s3, deadline_seconds)
    finally:
        s3.stop()


def _make_reference(folder: Path, s3: FaultyS3, deadline_seconds: float) -> FilesReference:
    place = folder / "reference"
    place.mkdir(parents=True)
    config = fault_config(place, {"engine": "fake"})
    users = place / "june.jsonl"

    def undisturbed(work: Work, where: Path = place) -> End:
        return _done(attempt(where, work, 4 * deadline_seconds))

    undisturbed(work_on(config, until="report"))
    plan = plan_run(config)
    scored = read_part(plan.users.part("users", 0), arrow_schema(User))["user_id"][0].as_py()
    active = [_active_user("june"), _active_user(scored)]
    users.write_text("\n".join(map(json.dumps, active)))
    child_config = update_config(plan.run_folder, [str(users)])
    undisturbed(work_on(child_config))
    undisturbed(work_on(config, "export", folder=str(place / "export")))
    scores = undisturbed(work_on(config, "score", folder=str(place / "export"), user_id=scored)).found
    partial = FilesReference(
        plan=plan,
        child=plan_run(child_config),
        users=str(users),
        export=place / "export",
        scores=scores,
        scored_user=scored,
        s3=s3,
        reached={},
        num_s3_requests=0,
    )
    counted = _count_points(folder, partial, undisturbed)
    s3.forget_requests()
    where = _place(folder / "undisturbed-s3")
    undisturbed(work_on(_s3_config(where), until=_S3_UNTIL), where)
    return FilesReference(
        **{name: getattr(partial, name) for name in FilesReference.__slots__ if name not in _COUNTED},
        reached=counted,
        num_s3_requests=len(s3.requests),
    )


_COUNTED = ("reached", "num_s3_requests")


def _count_points(
    folder: Path, reference: FilesReference, undisturbed: Callable[[Work, Path], End]
) -> dict[str, Mapping[Point, int]]:
    """Do the work that is killed in schedules once more, to know when."""
    counted: dict[str, Mapping[Point, int]] = {}
    for trouble, make in _WORK.items():
        place = _place(folder / f"undisturbed-{trouble.name}")
        work, _ = make(reference, place)
        undisturbed(work, place)
        counted[trouble] = reached(place / "faults")
        shutil.rmtree(place)
    return counted


def run_files_schedule(reference: FilesReference, schedule: Schedule, folder: Path, deadline_seconds: float) -> Outcome:
    """Disturb one piece of work, repeat it until it is done, and compare."""
    attempts = FileAttempts(
        reference=reference, schedule=schedule, folder=_place(folder), deadline_seconds=deadline_seconds
    )
    difference = NO_DIFFERENCE
    try:
        difference = _RUNNERS[schedule.trouble](attempts)
    except HangError as hang:
        attempts.problems.append(str(hang))
    finally:
        reference.s3.calm()
    needless, in_flight = attempts.paid_again()
    # Answers that were lost with their file are paid again.
    paid = (0, in_flight + needless) if schedule.variant == "completions" else (needless, in_flight)
    return attempts.outcome(difference, paid, (schedule.trouble,))


@dataclass(slots=True, kw_only=True)
class FileAttempts(Attempts):
    """Attempts in one process each."""

    reference: FilesReference

    @property
    def random(self) -> Random:
        """Return the schedule's chance."""
        return Random(f"files {self.schedule.seed}")

    def once(self, work: Work, *, is_disturbed: bool = False) -> End:
        """Make one attempt."""
        self.number += 1
        strikes = [(each.point, each.count, each.fault) for each in self.schedule.strikes] if is_disturbed else []
        end = attempt(self.folder, work, self.deadline_seconds, strikes)
        shutil.rmtree(self.folder / "faults" / "orders", ignore_errors=True)
        if end.error:
            self.refusals.append(end.error)
        if end.status not in (0, 2, -9):
            self.problems.append(f"an error that says nothing to a user: {end}")
        return end

    def to_the_end(self, work: Work) -> None:
        """Repeat until it is done."""
        end = End(status=-1)
        for _ in range(MAX_ATTEMPTS):
            end = self.once(work)
            if end.status == 0:
                return
        raise HangError(f"not finished after {MAX_ATTEMPTS} attempts: {end}")

    def killed(self, work: Work) -> None:
        """Kill the work as scheduled, then repeat it until it is done; nothing of it is left in TMPDIR."""
        if self.once(work, is_disturbed=True).status != 0:
            self.to_the_end(work)
        if left := [path.name for path in temporary_folder(self.folder).iterdir()]:
            self.problems.append(f"left in TMPDIR: {left}")


def _done(end: End) -> End:
    if end.status != 0:
        raise RuntimeError(f"undisturbed work failed: {end}")
    return end


def _place(folder: Path) -> Path:
    (folder / "faults").mkdir(parents=True)
    temporary_folder(folder).mkdir()
    return folder


def _active_user(user_id: str) -> dict[str, Any]:
    """Return what is new of a user, in the package's own format."""
    random = Random(f"active {user_id}")

    def pair() -> tuple[str, str]:
        first, second = random.sample(PLANTED_LABELS, 2)
        return f"A story built on {first} and {second}.", first

    history = [dict(zip(("input", "output"), pair(), strict=True)) for _ in range(8)]
    query = dict(zip(("input", "target"), pair(), strict=True))
    return {"user_id": user_id, "is_new": True, "history": history, "queries": [query]}


def _ingest_work(_: FilesReference, place: Path) -> tuple[Work, RunConfig]:
    config = fault_config(place, {"engine": "fake"})
    return work_on(config, until="users"), config


def _export_work(reference: FilesReference, place: Path) -> tuple[Work, RunConfig]:
    config = reference.plan.config
    return work_on(config, "export", folder=str(place / "export")), config


def _update_work(reference: FilesReference, place: Path) -> tuple[Work, RunConfig]:
    """Update a copy of the finished run, in which all that is learned for the users is there already."""
    root = _copied_root(reference, place)
    child = reference.child
    inherited = {stage.folder for stage in child.parent.stages.values()} if child.parent else set()
    for stage in child.stages():
        is_learned = any(f"/stages/{name}/" in stage.folder for name in LEARNED)
        own = root / Path(stage.folder).relative_to(reference.plan.config.storage.root)
        if stage.folder not in inherited and not is_learned:
            shutil.rmtree(own, ignore_errors=True)
        for path in (root / "completions").rglob(f"{asker_of(stage.name, stage.fingerprint)}*"):
            if stage.folder not in inherited:
                path.unlink()
    shutil.rmtree(run_folder_of(str(root), child.config.run), ignore_errors=True)
    config = update_config(run_folder_of(str(root), reference.plan.config.run), [reference.users])
    return work_on(config), config


_WORK: Mapping[Trouble, Callable[[FilesReference, Path], tuple[Work, RunConfig]]] = {
    Trouble.INGEST: _ingest_work,
    Trouble.EXPORT: _export_work,
    Trouble.UPDATE: _update_work,
}
"""Work that is killed."""


def _copied_root(reference: FilesReference, place: Path) -> Path:
    """Return a root with all files of the finished run, which names itself in its configurations."""
    root, known = place / "root", Path(reference.plan.config.storage.root)
    link_tree(known, root)
    for path in known.glob("runs/*/config.json"):
        config = read_config(str(path.parent))
        own = config.model_copy(update={"storage": config.storage.model_copy(update={"root": str(root)})})
        write_config(run_folder_of(str(root), path.parent.name), own)
    return root


def _ingest(attempts: FileAttempts) -> Difference:
    work, config = _ingest_work(attempts.reference, attempts.folder)
    attempts.killed(work)
    return compare(plan_run(config), attempts.reference.plan, ("users",))


def _update(attempts: FileAttempts) -> Difference:
    work, config = _update_work(attempts.reference, attempts.folder)
    attempts.killed(work)
    return compare(plan_run(config), attempts.reference.child)


def _export(attempts: FileAttempts) -> Difference:
    work, config = _export_work(attempts.reference, attempts.folder)
    folder = attempts.folder / "export"
    if attempts.once(work, is_disturbed=True).status == 0:
        return _same_export(attempts, folder)
    scoring = work_on(config, "score", folder=str(folder), user_id=attempts.reference.scored_user)
    if attempts.once(scoring).status != 2:
        attempts.problems.append("a part of an export is not refused")
    if attempts.once(work).status != 2:
        attempts.problems.append("an export into the rest of another one is not refused")
    other = attempts.folder / "again" / "export"
    attempts.to_the_end(work_on(config, "export", folder=str(other)))
    return _same_export(attempts, other)


def _same_export(attempts: FileAttempts, folder: Path) -> Difference:
    ours, theirs = contents(folder), contents(attempts.reference.export)
    changed = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return Difference(num_lost=len(theirs.keys() - ours.keys()), num_duplicate=0, changed=tuple(changed))


def _key(attempts: FileAttempts) -> Difference:
    """Damage the root's key while a user is forgotten; the run is refused, and goes on once the key is back."""
    random = attempts.random
    work, config = _ingest_work(attempts.reference, attempts.folder)
    plan, key = plan_run(config), Path(config.storage.root, "key")
    _done(attempts.once(work))
    rows = {bucket: _user_ids(plan, bucket) for bucket in plan.users.buckets}
    user_id = random.choice([each for ids in rows.values() for each in ids])
    if _done(attempts.once(work_on(config, "forget", user_id=user_id))).found != [True]:
        attempts.problems.append("the user was not forgotten")
    shutil.rmtree(plan.users.folder)
    shutil.rmtree(attempts.folder / "faults" / "counts", ignore_errors=True)
    attempts.once(work, is_disturbed=True)
    kept = key.read_bytes()
    key.unlink()
    if attempts.schedule.variant != "removed":
        key.write_bytes(
            {"emptied": b"", "cut": kept[: len(kept) // 2], "changed": kept[::-1]}[attempts.schedule.variant]
        )
    before = contents(Path(config.storage.root, "stages"))
    end = attempts.once(work)
    if end.status != 2 or str(key) not in end.text:
        attempts.problems.append(f"a key that was {attempts.schedule.variant} is not refused by name: {end}")
    if contents(Path(config.storage.root, "stages")).keys() - before.keys():
        attempts.problems.append("users were taken in under another key")
    key.write_bytes(kept)
    attempts.to_the_end(work)
    expected = {bucket: [each for each in ids if each != user_id] for bucket, ids in rows.items()}
    changed = [plan.users.part("users", bucket) for bucket in rows if _user_ids(plan, bucket) != expected[bucket]]
    if any(user_id in _user_ids(plan, bucket) for bucket in rows):
        attempts.problems.append("a forgotten user came back")
    return Difference(num_lost=0, num_duplicate=0, changed=tuple(changed))


def _user_ids(plan: Plan, bucket: int) -> list[str]:
    return read_part(plan.users.part("users", bucket), arrow_schema(User))["user_id"].to_pylist()


def _flip(attempts: FileAttempts) -> Difference:
    """Flip a bit of an artefact before later stages; the run refuses it, or ends as if nothing had happened."""
    random, reference = attempts.random, attempts.reference
    root = _copied_root(reference, attempts.folder)
    config = fault_config(attempts.folder, {"engine": "fake"})
    plan = plan_run(config)
    remove_from(plan, first_computed(attempts.schedule.variant, random))
    flip = flip_bit(random.choice(files_of(plan, attempts.schedule.variant)), random)
    work = work_on(config)
    for _ in range(MAX_ATTEMPTS):
        end = attempts.once(work)
        if end.status == 0:
            break
        if not flip.is_named(end.text):
            attempts.problems.append(f"a flipped bit of {flip.path} is not told by name: {end}")
            break
        if not follow_advice(plan, flip, end.text):
            attempts.problems.append(f"what to do about {flip.path} is not told: {end}")
            break
        for name in LEARNED:
            link_tree(Path(reference.plan.config.storage.root, "stages", name), root / "stages" / name)
    if flip.is_there:  # nobody read it
        flip.put_back()
    return compare(plan, reference.plan)


def _flip_export(attempts: FileAttempts) -> Difference:
    """Flip a bit of what is exported, or of an export; it is refused, or makes no difference."""
    random, reference = attempts.random, attempts.reference
    if attempts.schedule.variant == "exported":
        return _flip_exported(attempts)
    _copied_root(reference, attempts.folder)
    config = fault_config(attempts.folder, {"engine": "fake"})
    attempts.to_the_end(work_on(config, until="report"))  # a report names its root
    flip = flip_bit(random.choice(files_of(plan_run(config), attempts.schedule.variant)), random)
    folder = attempts.folder / "export"
    end = attempts.once(work_on(config, "export", folder=str(folder)))
    if end.status == 0:
        return _same_export(attempts, folder)
    if not flip.is_named(end.text):
        attempts.problems.append(f"a flipped bit of {flip.path} is not told by name: {end}")
    flip.put_back()
    other = attempts.folder / "again" / "export"
    attempts.to_the_end(work_on(config, "export", folder=str(other)))
    return _same_export(attempts, other)


def _flip_exported(attempts: FileAttempts) -> Difference:
    random, reference = attempts.random, attempts.reference
    folder = attempts.folder / "export"
    link_tree(reference.export, folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".md"]
    flip = flip_bit(random.choice(paths), random)
    work = work_on(reference.plan.config, "score", folder=str(folder), user_id=reference.scored_user)
    end = attempts.once(work)
    if end.status == 2 and not flip.is_named(end.text):
        attempts.problems.append(f"a flipped bit of {flip.path} is not told by name: {end}")
    changed = [str(flip.path)] if end.status == 0 and end.found != reference.scores else []
    return Difference(num_lost=0, num_duplicate=0, changed=tuple(changed))


def _s3_config(place: Path) -> RunConfig:
    config = fault_config(place, {"engine": "fake"})
    return config.model_copy(
        update={"storage": config.storage.model_copy(update={"root": f"s3://{BUCKET}{place}/root"})}
    )


def _s3(attempts: FileAttempts) -> Difference:
    random, s3 = attempts.random, attempts.reference.s3
    config = _s3_config(attempts.folder)
    work = work_on(config, until=_S3_UNTIL)
    is_expired = attempts.schedule.trouble == Trouble.S3_EXPIRED
    if is_expired:
        num_good = random.randrange(attempts.reference.num_s3_requests)
        s3.disturb(*[fault_s3.Fault.NONE] * num_good, *[fault_s3.Fault.EXPIRED] * _FOREVER)
    else:
        kinds = [fault_s3.Fault.SLOW_DOWN, fault_s3.Fault.NONE]
        s3.disturb(*random.choices(kinds, [_STORM_SHARE, 1 - _STORM_SHARE], k=_STORM_REQUESTS))
    end = attempts.once(work)
    if is_expired and end.status == 2 and "credentials" not in end.text:
        attempts.problems.append(f"expired credentials are not told: {end}")
    s3.calm()
    if end.status != 0:
        attempts.to_the_end(work)
    return compare(plan_run(config), attempts.reference.plan, _S3_STAGES)


_RUNNERS: Mapping[Trouble, Callable[[FileAttempts], Difference]] = {
    Trouble.INGEST: _ingest,
    Trouble.EXPORT: _export,
    Trouble.UPDATE: _update,
    Trouble.KEY: _key,
    Trouble.FLIP: _flip,
    Trouble.FLIP_EXPORT: _flip_export,
    Trouble.S3_EXPIRED: _s3,
    Trouble.S3_STORM: _s3,
}
