"""Facts of each node, and findings about a cluster from the facts of all its nodes."""

import hashlib
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra_ray import storage
from hydra_ray.cluster.placement_plan import Contents
from hydra_ray.cluster.versions import ABSENT, PACKAGES, SOURCE, comparable, source_folder, versions
from hydra_ray.errors import HydraError
from hydra_ray.findings import Finding, counted
from hydra_ray.models import load_tokenizer, model_identity, resolve_model

ENOUGH_DISK_GIGABYTES = 20
ENOUGH_SHARED_MEMORY_GIGABYTES = 1
ENOUGH_OPEN_FILES = 16_384
MOST_CLOCK_SECONDS = 2
_GIGABYTE = 1 << 30
_OF_A_JOB = "working_dir_files"
"""Name of the folder in which Ray unpacks a job's working directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Software, models and resources of a node. Key: node."""

    node: str
    """Address of the node."""
    versions: dict[str, str]
    """Versions of everything that must be the same on all nodes."""
    models: dict[str, str]
    """Identity of each model needed there, by its name in the configuration; for a tokenizer a hash of its
    behaviour."""
    missing_models: dict[str, str]
    """Reason why a model needed there cannot be used, by name."""
    storage_error: str
    """Reason why the node could not read the driver's file or write beside it; empty where it could."""
    num_gpus: int
    """Number of GPUs that torch sees."""
    expected_gpus: int
    """Number of GPUs that Ray counts."""
    free_disk_gigabytes: float
    """Free disk space where Ray spills or where models are cached, whichever is less."""
    shared_memory_gigabytes: float
    open_files: int
    """Limit of open files per process."""
    clock_seconds: float = 0
    """Lower bound of the clock's difference from the driver's, whatever the message latency."""
    packages: frozenset[str] = PACKAGES
    """Packages that must be installed there."""
    is_source_of_job: bool = False
    """Whether this package is imported from the job's working directory and not from where it is installed."""


def gather_facts(node: str, contents: Contents, marker: str, expected_gpus: int) -> NodeFacts:
    """Return the facts of this process's node.

    Args:
        node: address of the node.
        contents: packages and models that must be on it.
        marker: location of a file that the driver wrote below storage.root.
    """
    found, missing = _models(contents)
    return NodeFacts(
        node=node,
        versions=versions(),
        models=found,
        missing_models=missing,
        storage_error=_storage_error(node, marker),
        num_gpus=_num_gpus(),
        expected_gpus=expected_gpus,
        free_disk_gigabytes=min(shutil.disk_usage(place).free for place in ("/tmp", Path.home())) / _GIGABYTE,
        shared_memory_gigabytes=shutil.disk_usage("/dev/shm").total / _GIGABYTE,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        packages=contents.packages,
        is_source_of_job=_OF_A_JOB in source_folder().parts,
    )


def clock_seconds(before: float, there: float, after: float) -> float:
    """Return a lower bound of a clock's difference, read between two readings of the local clock."""
    return max(before - there, there - after, 0)


def facts_findings(facts: Sequence[NodeFacts], planned: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Yield findings about a cluster, problems or not.

    Args:
        planned: the driver's models, which enter fingerprints, and its source version, by the same names.
    """
    for name in facts[0].versions:
        yield _version(name, facts, planned or {})
    for name in dict.fromkeys(name for each in facts for name in (*each.models, *each.missing_models)):
        yield _model(name, facts, planned or {})
    yield _least(
        "storage",
        facts,
        lambda each: not each.storage_error,
        "written and read",
        lambda each: each.storage_error,
    )
    yield _least(
        "gpus",
        facts,
        lambda each: each.num_gpus == each.expected_gpus,
        f"{sum(each.num_gpus for each in facts)} in all",
        lambda each: f"torch sees {each.num_gpus} of the {each.expected_gpus} that Ray counts: driver, or image",
    )
    yield _amount("free disk", facts, lambda each: each.free_disk_gigabytes, ENOUGH_DISK_GIGABYTES, "GB")
    yield _amount("/dev/shm", facts, lambda each: each.shared_memory_gigabytes, ENOUGH_SHARED_MEMORY_GIGABYTES, "GB")
    yield _amount("open files", facts, lambda each: each.open_files, ENOUGH_OPEN_FILES, "a process")
    latest = max(facts, key=lambda each: each.clock_seconds)
    is_off = latest.clock_seconds > MOST_CLOCK_SECONDS
    yield Finding(
        name="clock",
        value=f"at most {latest.clock_seconds:.1f} s off, on {latest.node}",
        is_problem=is_off,
        remedy="synchronize it: S3 refuses requests of wrong times" if is_off else "",
    )


def _version(name: str, facts: Sequence[NodeFacts], planned: Mapping[str, str]) -> Finding:
    """Return a finding on a package, which may be missing where nothing imports it, but must otherwise be the same
    everywhere."""
    lacking = [each.node for each in facts if each.versions[name] == ABSENT and each.packages >= {name}]
    if lacking:
        remedy = f"the plan puts work there that needs {name}: install it, or keep the work away by placement's labels"
        return Finding(name=name, value=f"{ABSENT} on {', '.join(lacking)}", is_problem=True, remedy=remedy)
    present = [(each.node, each.versions[name]) for each in facts if each.versions[name] != ABSENT]
    if not present:
        return Finding(name=name, value="on no node, and not needed")
    note = ""
    if len(builds := sorted({version for _, version in present})) > 1:
        note = f" ({', '.join(builds)})"
    if name == SOURCE and any(each.is_source_of_job for each in facts):
        note = ", of the submitted working directory, which goes before what is installed"
    values = [(node, comparable(name, version)) for node, version in present]
    return _as_planned(_same(name, values, "install the same everywhere", note), values[0][1], planned)


def _same(name: str, values: Iterable[tuple[str, str]], remedy: str, note: str = "") -> Finding:
    """Return a finding on whether all nodes have one value.

    Args:
        values: pairs of node and value.
        note: text to append if they agree.
    """
    nodes: dict[str, list[str]] = {}
    for node, value in values:
        nodes.setdefault(value, []).append(node)
    common = max(nodes, key=lambda each: len(nodes[each]))
    text = f"{common} on {counted(len(nodes[common]), 'node')}"
    if len(nodes) == 1:
        return Finding(name=name, value=text + note)
    others = "; ".join(f"{each} on {', '.join(where)}" for each, where in nodes.items() if each != common)
    return Finding(name=name, value=f"{text}; {others}", is_problem=True, remedy=remedy)


def _model(name: str, facts: Sequence[NodeFacts], planned: Mapping[str, str]) -> Finding:
    missing = [each for each in facts if name in each.missing_models]
    if missing:
        where = ", ".join(each.node for each in missing)
        return Finding(name=name, value=f"not on {where}", is_problem=True, remedy=missing[0].missing_models[name])
    values = [(each.node, each.models[name]) for each in facts if name in each.models]
    found = _same(name, values, "put the same model on every node that needs it")
    return _as_planned(found, values[0][1], planned)


def _as_planned(found: Finding, value: str, planned: Mapping[str, str]) -> Finding:
    """Return the finding, or a problem where the driver has a different value."""
    own = planned.get(found.name, value)
    if found.is_problem or own == value:
        return found
    remedy = "the driver's node must have the same as the other nodes, because its plan names what they use"
    return Finding(name=found.name, value=f"{found.value}; {own} for the driver", is_problem=True, remedy=remedy)


def _least(
    name: str,
    facts: Sequence[NodeFacts],
    is_right: Callable[[NodeFacts], bool],
    value: str,
    reason: Callable[[NodeFacts], str],
) -> Finding:
    wrong = [each for each in facts if not is_right(each)]
    if not wrong:
        return Finding(name=name, value=f"{value}, {counted(len(facts), 'node')}")
    where = ", ".join(each.node for each in wrong)
    return Finding(name=name, value=f"not on {where}", is_problem=True, remedy=reason(wrong[0]))


def _amount(
    name: str, facts: Sequence[NodeFacts], amount: Callable[[NodeFacts], float], enough: float, unit: str
) -> Finding:
    least = min(facts, key=amount)
    is_small = amount(least) < enough
    remedy = f"a run needs {enough:g} {unit}" if is_small else ""
    return Finding(
        name=name, value=f"{amount(least):.0f} {unit} at least, on {least.node}", is_problem=is_small, remedy=remedy
    )


def _storage_error(node: str, marker: str) -> str:
    """Read the driver's file and write one beside it for the driver to read; return the error, if any."""
    try:
        content = storage.read_bytes(marker)
        storage.write_bytes(f"{marker}.{node}", content)
    except (HydraError, OSError) as error:
        return f"storage.root must be the same place on every node, and writable: {error}"
    return ""


def _models(contents: Contents) -> tuple[dict[str, str], dict[str, str]]:
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    asked = [(name, name, _present) for name in sorted(contents.models)]
    # A complete model includes its tokenizer.
    only = sorted(contents.tokenizers - contents.models)
    asked += [(f"tokenizer of {name}", name, _tokenizer_identity) for name in only]
    for label, name, identity in asked:
        try:
            found[label] = identity(name)
        except HydraError as error:
            missing[label] = str(error)
    return found, missing


def _present(name: str) -> str:
    """Return the identity of a model, fetching it first if needed.

    Raises:
        ModelError: it is missing, and cannot be fetched.
    """
    resolve_model(name)
    return model_identity(name)


def _tokenizer_identity(name: str) -> str:
    """Return a hash of a tokenizer's vocabulary, special tokens and chat template."""
    tokenizer = load_tokenizer(name)
    behaviour = repr((sorted(tokenizer.get_vocab().items()), tokenizer.all_special_tokens, tokenizer.chat_template))
    return f"tokenizer:{hashlib.blake2b(behaviour.encode(), digest_size=8).hexdigest()}"


def _num_gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()
