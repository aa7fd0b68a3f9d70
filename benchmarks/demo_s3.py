"""Demo on an object store, killed in the middle and resumed.

    python benchmarks/demo_s3.py [--stage drafts] [--endpoint http://host:port --bucket NAME]

Without an endpoint, moto's server is the store. The run is killed with all its child processes as soon as a part of the
stage is committed, and started again with the same command. Exit status 1 if a committed part is written again, or the
second run does not end with all stages complete and with answers.
"""

import argparse
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from hydra_ray import storage
from hydra_ray.config import load_config
from hydra_ray.stages.plan import Plan, plan_run

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "demo.yaml"
DEADLINE_SECONDS = 3600


def main() -> int:
    """Run, kill, resume and print; exit status 1 if a part was lost or written twice."""
    parser = argparse.ArgumentParser(description="The demo on an object store, killed and resumed")
    parser.add_argument("--stage", default="drafts", choices=["profiles", "probes", "drafts"], help="to be killed in")
    parser.add_argument("--endpoint", help="URL of a store; credentials come from the standard chain")
    parser.add_argument("--bucket", default="hydra-ray", help="of the store; it must be there")
    arguments = parser.parse_args()
    with store(arguments.endpoint, arguments.bucket):
        root = f"s3://{arguments.bucket}/demo-{int(time.time())}"
        plan = plan_run(load_config(CONFIG, [f"storage.root={root}"]))
        first = run_until_killed(root, arguments.stage)
        before = parts(plan)
        print(f"killed in {arguments.stage} after {first:.0f} s, {len(before)} parts were there")
        second = run_to_the_end(root)
        after = parts(plan)
        rewritten = [location for location, state in before.items() if after.get(location) != state]
        predictions = storage.read_json(storage.join(plan.run_folder, "predictions.json"))["golds"]
        stages = {stage.name: stage.manifest()["counters"] for stage in plan.stages()}
        asked_now = {name: counters["asked_now"] for name, counters in stages.items() if "asked_now" in counters}
        print(f"resumed to the end in {second:.0f} s, {len(after)} parts; parts put again: {len(rewritten)}")
        print(f"requests asked by stage: {asked_now}; answers: {len(predictions)}; root: {root}")
        return int(bool(rewritten) or not predictions or not plan.is_complete())


@contextmanager
def store(endpoint: str | None, bucket: str) -> Iterator[None]:
    """Let this process and its children use the store: moto's server in this process if no endpoint is given."""
    if endpoint is not None:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint
        yield
        return
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "moto",
        "AWS_SECRET_ACCESS_KEY": "moto",
        "AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_REGION": "us-east-1",
    }
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)
    try:
        yield
    finally:
        server.stop()


def run_until_killed(root: str, stage: str) -> float:
    """Start the demo, kill it with all its children when a part of the stage is committed; return the seconds."""
    start = time.monotonic()
    with subprocess.Popen(_command(root), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if re.search(rf" {stage}: +\d+/\d+ parts", line):
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                for child in children:
                    _kill(child)
                return time.monotonic() - start
    raise SystemExit(f"the demo ended before a part of {stage} was there")


def run_to_the_end(root: str) -> float:
    """Run the demo; return the seconds."""
    start = time.monotonic()
    subprocess.run(_command(root), check=True, timeout=DEADLINE_SECONDS)
    return time.monotonic() - start


def parts(plan: Plan) -> Mapping[str, tuple[int, int]]:
    """Return size and modification time of every committed part of every stage."""
    names = [name for name in storage.list_tree(f"{plan.config.storage.root}/stages") if name.endswith(".parquet")]
    locations = [f"{plan.config.storage.root}/stages/{name}" for name in names]
    return {location: storage.file_state(location) for location in locations}


def _command(root: str) -> list[str]:
    return [sys.executable, "-m", "hydra_ray.cli", "run", str(CONFIG), f"storage.root={root}"]


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    sys.exit(main())
