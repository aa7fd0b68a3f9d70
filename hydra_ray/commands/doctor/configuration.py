"""Checks of a run's configuration against this machine, before anything is started or paid for."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra_ray.api import configured
from hydra_ray.cluster.node_types import NodeType
from hydra_ray.cluster.placement_plan import placement_findings
from hydra_ray.commands.doctor.disk_space import disks_of, needs_of, room_findings, storage_finding
from hydra_ray.commands.doctor.endpoint import endpoint_findings
from hydra_ray.commands.doctor.machine import Machine, broken_torch
from hydra_ray.commands.doctor.memory import cpu_finding, gpu_findings, size_of, wants_gpus
from hydra_ray.commands.doctor.model_files import ModelDescription
from hydra_ray.commands.doctor.models import encoder_findings, generator_finding
from hydra_ray.commands.doctor.packages import missing_packages, package_versions
from hydra_ray.commands.doctor.users import users_finding
from hydra_ray.config import RunConfig, Task, load_config, read_settings
from hydra_ray.config.check import LIST_FOLLOWS
from hydra_ray.engine.ray_connection import ADDRESS, require_cluster_address
from hydra_ray.errors import ClusterError, HydraError
from hydra_ray.findings import Finding, problem, unusable
from hydra_ray.lamp.seen_users import SeenUsers
from hydra_ray.lamp.tasks import task_of
from hydra_ray.runs.run_folder import read_parent
from hydra_ray.stages.buckets import with_num_buckets
from hydra_ray.stages.plan import used_plugins
from hydra_ray.storage.locations import reach


@dataclass(frozen=True, slots=True, kw_only=True)
class _Models:
    """Usable models of a run."""

    generator: ModelDescription | None
    encoders: Sequence[ModelDescription]


def examine_configuration(
    path: str, overrides: Sequence[str], machine: Machine, *, is_called: bool = False
) -> list[Finding]:
    """Return findings about a configuration on a machine; without a problem, a run of it can start.

    Args:
        path: YAML file.
        overrides: settings to override.
        is_called: whether to make one call to the endpoint, if one is the generator.
    """
    try:
        given = load_config(path, overrides)
        plugins = [each.name for each in used_plugins(given)]
        task = task_of(given.lamp)
        config = configured(given)
        reach(config.storage)
        read_parent(config)
    except HydraError as error:
        return _wrong_settings(path, error)
    found = [Finding(name="configuration", value=f"{path}: run {config.run}, task {task.name}")]
    if plugins:
        found.append(Finding(name="plug-ins", value=", ".join(plugins)))
    if (missing := missing_packages(config)) is not None:
        return [*found, missing]
    if machine.torch.error:
        return [*found, broken_torch(machine.torch)]
    found += package_versions(config)
    about_models, models = _examine_models(config, task)
    found += about_models
    about_users, seen = users_finding(config, task)
    if seen is not None:
        config = with_num_buckets(config, seen)
    found += [about_users, *endpoint_findings(config.generator, is_called=is_called)]
    stored = storage_finding(config.storage.root, given.storage.root)
    found.append(stored)
    if seen is not None and not stored.is_problem:
        found += _examine_room(config, seen, models)
    return [*found, *_examine_work(config, machine, models, seen)]


def _wrong_settings(path: str, error: HydraError) -> list[Finding]:
    """Return one problem per setting, where the error lists several."""
    if _is_sweep(path):
        remedy = "doctor takes the configuration of a run: give the one that `base` in it names"
        return [problem("configuration", f"{path} is a sweep's", remedy)]
    first, *lines = str(error).splitlines()
    if not (lines and first.endswith(LIST_FOLLOWS)):
        return [unusable("configuration", path, error)]
    return [problem("configuration", path, line) for line in lines]


def _is_sweep(path: str) -> bool:
    try:
        return {"sweep", "base", "space"} <= {*read_settings(path)}
    except HydraError:
        return False


def _examine_models(config: RunConfig, task: Task) -> tuple[list[Finding], _Models]:
    from hydra_ray.generate.engines.vllm import supports_architecture

    try:
        about_generator, generator = generator_finding(config, task, supports_architecture)
    except ImportError as error:
        remedy = f"install it anew from the lock for this machine: {error}"
        about_generator, generator = problem("generator", "vLLM cannot be imported", remedy), None
    about_encoders, encoders = encoder_findings(config)
    return [about_generator, *about_encoders], _Models(generator=generator, encoders=encoders)


def _examine_room(config: RunConfig, seen: SeenUsers, models: _Models) -> Iterator[Finding]:
    needs = needs_of(config, seen, models.generator, models.encoders)
    return room_findings(needs, disks_of(needs))


def _examine_work(config: RunConfig, machine: Machine, models: _Models, seen: SeenUsers | None) -> Iterator[Finding]:
    """Yield findings on whether the run's work fits on this machine: GPUs, memory, and Ray's resources."""
    try:
        require_cluster_address()
    except ClusterError as error:
        yield unusable("work", "RAY_ADDRESS", error)
        return
    if (address := os.environ.get(ADDRESS, "")) not in ("", "local"):
        remedy = "whether it fits there: hydra-ray doctor --cluster CONFIG, and cluster/check.py"
        yield Finding(name="work", value=f"on the cluster at {address}, which RAY_ADDRESS names", remedy=remedy)
        return
    size = size_of(models.generator, config.generator.dtype) if models.generator else None
    num_parts = None if seen is None else seen.num_parts(config)
    yield from gpu_findings(config, machine, size)
    copies = config.placement.generator_actors
    if (
        on_cpu := cpu_finding(config, machine, size, copies if num_parts is None else min(copies, num_parts))
    ) is not None:
        yield on_cpu
    yield from _examine_placement(config, machine, num_parts)


def _examine_placement(config: RunConfig, machine: Machine, num_parts: int | None) -> list[Finding]:
    """Return the placement problems, each reported once if several stages share it, or one finding that everything
    fits."""
    # Missing GPUs are reported by a separate finding.
    num_gpus = max([len(machine.gpus), *wants_gpus(config).values()])
    node = NodeType(name="this machine", resources={"CPU": machine.num_cpus, "GPU": num_gpus}, is_head=True)
    found = placement_findings(config, [node], num_parts)
    copies = next(finding for finding in found if finding.name == "copies")
    wrong: dict[str, Finding] = {}
    for finding in found:
        if finding.is_problem and finding is not copies:
            remedy = f"reserve less in the section placement, or use a larger machine: {finding.remedy}"
            wrong.setdefault(remedy, problem(finding.name, finding.value, remedy))
    room = Finding(name="placement", value=f"every stage has room on {machine.num_cpus} CPU cores")
    return [copies, *(wrong.values() or [room])]
