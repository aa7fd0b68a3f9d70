"""Whole runs on an object store and on broken disks; most of them in this process instead of Ray's."""

import json
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import yaml
from builders import run_config
from ended_commands import end_when
from fault_s3 import KEY, SECRET, Fault, FaultyS3

from hydra_ray import storage
from hydra_ray.cli import main
from hydra_ray.config import RunConfig
from hydra_ray.errors import DamagedError, StorageError
from hydra_ray.forget.removal import forget_users
from hydra_ray.generate.engines.fake import FakeEngine
from hydra_ray.rows import User, arrow_schema, from_table
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.runs.stage import LEASE
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")

FAULTS = [Fault.SLOW_DOWN, Fault.CUT_OFF]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request that the generator was asked, in their order."""
    found: list[str] = []
    answer = FakeEngine.answer

    async def counting(self, prompts, *arguments):
        found.extend(prompt.request.request_id for prompt in prompts)
        return await answer(self, prompts, *arguments)

    monkeypatch.setattr(FakeEngine, "answer", counting)
    return found


def kill_at(patch: pytest.MonkeyPatch, fragment: str, error: BaseException) -> None:
    """Let the first write to a location with the fragment in it fail."""
    write = storage.open_output

    def failing(location: str):
        if fragment in location:
            raise error
        return write(location)

    for module in (storage, storage.files):
        patch.setattr(module, "open_output", failing)


def predictions(plan: Plan) -> bytes:
    return storage.read_bytes(storage.join(plan.run_folder, "predictions.json"))


def at(root: str, config: RunConfig) -> RunConfig:
    return config.model_copy(update={"storage": config.storage.model_copy(update={"root": root})})


@pytest.fixture(scope="module")
def stored(small_run: Plan, s3: FaultyS3, s3_root: str, without_ray: None) -> Plan:
    """The small run on a store that fails now and then; it was killed when half of the drafts were there."""
    config = at(s3_root, small_run.config)
    chance = random.Random(0)
    s3.disturb(*(chance.choice(FAULTS) if chance.random() < 0.01 else Fault.NONE for _ in range(1500)))
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "/drafts/bucket-00001.parquet", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            personalize(config)
    plan = plan_run(config)
    assert plan.drafts.missing_buckets("drafts") == [1]
    personalize(config)
    s3.calm()
    return plan


@pytest.mark.ray
def test_a_killed_run_on_a_faulty_store_resumes_to_the_answers_of_a_local_run(stored: Plan, small_run: Plan):
    assert stored.is_complete()
    assert predictions(stored) == predictions(small_run)


@pytest.mark.ray
def test_a_finished_run_on_a_store_asks_nothing_and_writes_no_part_again(stored: Plan, s3: FaultyS3, asked: list[str]):
    s3.forget_requests()
    personalize(stored.config)
    assert asked == []
    assert [each for each in s3.requests if not each.startswith(("GET", "HEAD")) and "/stages/" in each] == []


@pytest.mark.ray
def test_commands_take_the_folder_of_a_run_on_a_store(stored: Plan, capsys: pytest.CaptureFixture[str]):
    assert main(["status", stored.run_folder]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["report", stored.run_folder]) == 0


@pytest.mark.ray
def test_no_credentials_are_kept_on_a_store(stored: Plan):
    root = stored.config.storage.root
    contents = [storage.read_bytes(storage.join(root, name)) for name in storage.list_tree(root)]
    assert contents
    assert not any(KEY.encode() in content or SECRET.encode() in content for content in contents)


@pytest.mark.ray
def test_a_user_is_forgotten_on_a_store(stored: Plan):
    root = stored.config.storage.root
    part = storage.read_part(stored.users.part("users", 0), arrow_schema(User))
    user_id = next(iter(from_table(part, User))).user_id
    (outcome,) = forget_users(root, [user_id])
    assert outcome.is_removed_now
    left = storage.read_part(stored.users.part("users", 0), arrow_schema(User))
    assert {row.user_id for row in from_table(part, User)} - {row.user_id for row in from_table(left, User)} == {
        user_id
    }
    assert not forget_users(root, [user_id])[0].is_removed_now


@pytest.mark.ray
def test_a_run_on_ray_and_a_store_resumes_after_it_was_killed(s3: FaultyS3, s3_root: str, tmp_path: Path):
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8}}
    config = run_config(f"{s3_root}/on-ray", users={"num_buckets": 8}, reranker=untrained, adapter=untrained)
    plan = plan_run(config)
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    ended = end_when(["probes: ", "/8 parts"], ["run", str(settings)], signal.SIGKILL)
    assert ended.status == -signal.SIGKILL
    assert not plan.probes.is_complete()
    committed = {bucket: plan.probes.part("probes", bucket) for bucket in plan.probes.committed_buckets("probes")}
    assert committed
    s3.forget_requests()
    subprocess.run([sys.executable, "-m", "hydra_ray.cli", "run", str(settings)], check=True, timeout=900)
    assert plan.is_complete()
    assert len(json.loads(predictions(plan))["golds"]) == 4
    written_again = [each for each in s3.requests if each in {f"PUT /{path[5:]}" for path in committed.values()}]
    assert written_again == []


@pytest.fixture
def config(tmp_path: Path, without_ray: None) -> RunConfig:
    return run_config(str(tmp_path / "root"), users={"num_buckets": 4})


def cut_off(location: str) -> None:
    storage.write_bytes(location, storage.read_bytes(location)[:-20])


def test_a_damaged_part_of_an_unfinished_stage_is_set_aside_and_made_again(
    config: RunConfig, asked: list[str], caplog: pytest.LogCaptureFixture
):
    plan = personalize(config, until="probes")
    whole = [storage.read_part(location) for location in plan.probes.parts("probes")]
    storage.remove_file(plan.probes.manifest_location)
    cut_off(plan.probes.part("probes", 2))
    asked.clear()
    personalize(config, until="probes")
    assert f"probes: {plan.probes.part('probes', 2)} is damaged; it was set aside and is computed again" in caplog.text
    assert [storage.read_part(location) for location in plan.probes.parts("probes")] == whole
    assert storage.exists(plan.probes.part("probes", 2) + storage.DAMAGED_SUFFIX)
    assert asked == []


def test_a_damaged_part_of_a_complete_stage_stops_the_run_until_it_is_removed(config: RunConfig, asked: list[str]):
    plan = personalize(config, until="probes")
    damaged = plan.users.part("users", 1)
    whole = storage.read_part(damaged)
    cut_off(damaged)
    for location in (plan.probes.manifest_location, *plan.probes.parts("probes")):
        storage.remove_file(location)
    with pytest.raises(DamagedError, match=rf"{damaged} is damaged.*Remove it, and its stage's manifest.json"):
        personalize(config, until="probes")
    storage.remove_file(damaged)
    with pytest.raises(StorageError, match=rf"no file at {damaged}.*remove the stage's manifest.json and run again"):
        personalize(config, until="probes")
    storage.remove_file(plan.users.manifest_location)
    asked.clear()
    personalize(config, until="probes")
    assert storage.read_part(damaged).equals(whole)
    assert asked == []


def test_after_a_full_disk_a_run_resumes_when_there_is_room(config: RunConfig, asked: list[str]):
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, "/probes/bucket-00002.parquet", StorageError("no room is left"))
        with pytest.raises(StorageError, match="no room is left"):
            personalize(config, until="probes")
    plan = plan_run(config)
    assert 2 in plan.probes.missing_buckets("probes")
    first = list(asked)
    asked.clear()
    personalize(config, until="probes")
    assert plan.probes.is_complete()
    assert not {*first} & {*asked}


def test_what_a_killed_run_of_the_same_name_held_is_taken_over(config: RunConfig, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    location = run_lease(config.storage.root, config.run)
    with lease(location, "earlier run"):
        dead = storage.read_json(location) | {"started": "1"}
    storage.write_json(location, dead)
    personalize(config, until="users")
    assert f"run test: takes over from process {dead['pid']} on {dead['host']}, which has ended" in caplog.text
    assert not storage.exists(location)


def test_two_runs_that_start_at_once_make_each_stage_once(config: RunConfig, asked: list[str]):
    together = Barrier(2)

    def run(name: str) -> Plan:
        together.wait()
        return personalize(config.model_copy(update={"run": name}), until="probes")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, ("first", "second"))
    assert first.probes.folder == second.probes.folder
    assert first.probes.is_complete()
    assert len(asked) == len({*asked}) > 0
    assert not [path for path in storage.list_tree(config.storage.root) if path.endswith(LEASE)]
