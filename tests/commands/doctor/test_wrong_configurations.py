"""`hydra-ray doctor CONFIG` on configurations of which one thing is wrong: one problem, one line, exit status 1."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from machines import RTX_4090, T4, machine
from model_folders import BERT, LLAMA, write_model

from hydra_ray.cli import main
from hydra_ray.commands.doctor.machine import Machine, Torch
from hydra_ray.config import PlantedConfig
from hydra_ray.lamp.planted import write_planted

LABELS = ["hardware", "software", "billing"]
ONE_GPU = machine(RTX_4090)
KEY = "DOCTOR_TEST_KEY"


def user(number: int) -> dict[str, Any]:
    """A row of a users' file."""
    history = [{"input": f"text {each}", "output": LABELS[each % 3]} for each in range(4)]
    queries = [{"id": "q", "input": "another text", "target": "billing"}]
    return {"user_id": f"user-{number}", "is_new": number % 2 == 0, "history": history, "queries": queries}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A configuration that can be run, as files below a folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    port: int
    """Of a socket that accepts connections."""

    @property
    def config(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def users(self) -> Path:
        return self.folder / "users.jsonl"

    def change(self, **sections: Any) -> None:
        """Merge settings into the configuration's sections."""
        settings = yaml.safe_load(self.config.read_text())
        for name, section in sections.items():
            settings[name] = {**settings.get(name, {}), **section}
        self.config.write_text(yaml.safe_dump(settings))

    def ask_endpoint(self, port: int | None = None) -> None:
        """Let an endpoint be the generator."""
        api = {"base_url": f"http://127.0.0.1:{port or self.port}/v1", "model": "large", "api_key_env": KEY}
        self.change(generator={"engine": "openai", "api": api})

    def be_on(self, here: Machine) -> None:
        """Run on a machine that is not there."""
        self.monkeypatch.setattr("hydra_ray.commands.doctor.examination.this_machine", lambda: here)


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        "hydra_ray.generate.engines.vllm.supports_architecture", lambda name: name in LLAMA["architectures"]
    )
    encoder = write_model(tmp_path / "encoder", BERT)
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(user(number)) + "\n" for number in range(40)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = Setup(folder=tmp_path, monkeypatch=monkeypatch, port=server.getsockname()[1])
        task = {
            "name": "tickets",
            "kind": "classification",
            "instruction": "Which team?",
            "labels": LABELS,
            "max_tokens": 4,
        }
        settings = {
            "run": "tickets",
            "storage": {"root": str(tmp_path / "root")},
            "lamp": {"users_files": [str(found.users)], "task": task},
            "users": {"num_buckets": 4, "bucket_key": "key"},
            "generator": {"model": write_model(tmp_path / "generator", LLAMA)},
            "reranker": {"base": {"encoder": encoder}},
            "adapter": {"base": {"encoder": encoder}},
            "placement": {"generator_gpus": 1, "train_gpus_per_worker": 1},
        }
        found.config.write_text(yaml.safe_dump(settings))
        found.be_on(ONE_GPU)
        yield found


def test_a_right_configuration_has_no_problem(setup: Setup, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", str(setup.config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert {"configuration", "generator", "users", "gpus", "cuda", "placement"} <= {line.split()[1] for line in lines}
    assert not (setup.folder / "root").exists(), "looking leaves nothing behind"


def missing_key(setup: Setup) -> None:
    setup.ask_endpoint()


def key_with_a_newline(setup: Setup) -> None:
    setup.ask_endpoint()
    setup.monkeypatch.setenv(KEY, "secret\n")


def refusing_endpoint(setup: Setup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    setup.ask_endpoint(port)
    setup.monkeypatch.setenv(KEY, "secret")


def no_such_model(setup: Setup) -> None:
    setup.change(generator={"model": str(setup.folder)})


def missing_shard(setup: Setup) -> None:
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    setup.change(generator={"model": write_model(setup.folder / "sharded", LLAMA, shards=names)})
    (setup.folder / "sharded" / names[1]).unlink()


def damaged_weights(setup: Setup) -> None:
    path = setup.folder / "generator" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def unknown_model_type(setup: Setup) -> None:
    setup.change(generator={"model": write_model(setup.folder / "other", {"model_type": "nobody-knows-it"})})


def unknown_to_vllm(setup: Setup) -> None:
    other = {**LLAMA, "architectures": ["OtherForCausalLM"]}
    setup.change(generator={"model": write_model(setup.folder / "other", other)})


def no_chat_template(setup: Setup) -> None:
    setup.change(generator={"model": write_model(setup.folder / "plain", LLAMA, chat_template=None)})


def encoder_as_generator(setup: Setup) -> None:
    setup.change(generator={"model": str(setup.folder / "encoder"), "max_model_tokens": 512})


def generator_as_encoder(setup: Setup) -> None:
    setup.change(reranker={"base": {"encoder": str(setup.folder / "generator")}})


def too_long_context(setup: Setup) -> None:
    setup.change(generator={"max_model_tokens": 8192})


def too_long_text(setup: Setup) -> None:
    encoder = str(setup.folder / "encoder")
    setup.change(adapter={"base": {"encoder": encoder, "max_text_tokens": 1024}})


def too_long_label(setup: Setup) -> None:
    task = yaml.safe_load(setup.config.read_text())["lamp"]["task"]
    setup.change(lamp={"task": {**task, "labels": ["a label of rather many words", *LABELS]}})


def no_space(setup: Setup) -> None:
    usage = shutil.disk_usage(setup.folder)
    setup.monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))


def root_that_is_a_file(setup: Setup) -> None:
    (setup.folder / "root").write_text("")


def too_few_buckets(setup: Setup) -> None:
    setup.change(placement={"generator_actors": 8})


def fewer_users_than_copies(setup: Setup) -> None:
    setup.change(placement={"generator_actors": 8}, users={"num_buckets": 64})
    setup.users.write_text("".join(json.dumps(user(number)) + "\n" for number in range(3)))


def missing_users(setup: Setup) -> None:
    setup.users.unlink()


def broken_users(setup: Setup) -> None:
    setup.users.write_text('{"user_id": "ann", "history": [\n' * 5)


def users_of_another_task(setup: Setup) -> None:
    setup.users.write_text(setup.users.read_text().replace("hardware", "gardening"))


def users_that_are_no_parquet(setup: Setup) -> None:
    setup.users.rename(setup.folder / "users.parquet")
    setup.change(lamp={"users_files": [str(setup.folder / "users.parquet")]})


def nobody_new(setup: Setup) -> None:
    setup.users.write_text(setup.users.read_text().replace('"is_new": true', '"is_new": false'))


def missing_split(setup: Setup) -> None:
    write_planted(PlantedConfig(num_train_users=3, num_new_users=2, num_records=4), setup.folder)
    (setup.folder / "dev_questions.json").unlink()
    setup.change(lamp={"users_files": [], "root": str(setup.folder), "task": "planted"})
    setup.change(lamp={"users_files": [], "root": str(setup.folder), "task": "planted"}, generator={"engine": "fake"})


def cut_split(setup: Setup) -> None:
    missing_split(setup)
    (setup.folder / "dev_questions.json").write_text('[{"id": "1", "inp')


def unknown_setting(setup: Setup) -> None:
    setup.change(drafts={"num_sample": 3})


def no_yaml(setup: Setup) -> None:
    setup.config.write_text("run: [")


def unknown_task(setup: Setup) -> None:
    setup.change(lamp={"task": "LaMP_9"})


def no_gpu(setup: Setup) -> None:
    setup.be_on(machine())


def small_gpu(setup: Setup) -> None:
    setup.be_on(machine(T4))
    big = write_model(setup.folder / "big", {**LLAMA, "num_hidden_layers": 4000, "hidden_size": 4096})
    setup.change(generator={"model": big, "dtype": "float16"})


def old_gpu(setup: Setup) -> None:
    setup.be_on(machine(T4))


def old_driver(setup: Setup) -> None:
    setup.be_on(machine(RTX_4090, driver="550.54.15"))


def torch_for_cpus(setup: Setup) -> None:
    setup.be_on(machine(RTX_4090, cuda=None))


def broken_torch(setup: Setup) -> None:
    error = "OSError: libcudnn.so.9: cannot open shared object file"
    setup.be_on(replace(ONE_GPU, torch=Torch(error=error)))


def little_memory(setup: Setup) -> None:
    setup.be_on(machine(memory_gigabytes=3))
    setup.change(placement={"generator_gpus": 0, "train_gpus_per_worker": 0, "generator_kv_cache_gigabytes": 2})


def missing_package(setup: Setup) -> None:
    setup.monkeypatch.setattr("hydra_ray.extras.is_installed", lambda module: module != "vllm")


def too_few_cores(setup: Setup) -> None:
    setup.be_on(machine(RTX_4090, num_cpus=2))
    setup.change(placement={"generator_cpus": 4})


def retriever_in_no_store(setup: Setup) -> None:
    setup.change(retrieve={"method": "bm25", "encoder": "gs://bucket/encoder"})


def folder_that_is_relative(setup: Setup) -> None:
    setup.monkeypatch.chdir(setup.folder)
    setup.change(generator={"model": "generator"})


def address_of_submissions(setup: Setup) -> None:
    setup.monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")


def address_of_ray_client(setup: Setup) -> None:
    setup.monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")


WRONG: list[tuple[Callable[[Setup], None], str, str]] = [
    (missing_key, "endpoint's key", f"export {KEY}"),
    (key_with_a_newline, "endpoint's key", "white space"),
    (refusing_endpoint, "endpoint", "refuses connections"),
    (no_such_model, "generator", "it has no config.json"),
    (missing_shard, "generator", "model-00002-of-00003.safetensors"),
    (damaged_weights, "generator", "cut off or damaged"),
    (unknown_model_type, "generator", "nobody-knows-it"),
    (unknown_to_vllm, "generator", "does not know OtherForCausalLM"),
    (no_chat_template, "generator", "has no chat template"),
    (encoder_as_generator, "generator", "BertModel, which writes no text"),
    (generator_as_encoder, "encoder: reranker", "LlamaForCausalLM, which writes texts"),
    (too_long_context, "generator", "set generator.max_model_tokens=4096"),
    (too_long_text, "encoder: reranker, adapter", "adapter.base.max_text_tokens=512"),
    (too_long_label, "generator", "lamp.task.max_tokens=4: raise it"),
    (no_space, "disk", "free space there"),
    (root_that_is_a_file, "storage.root", "no file can be written there (File exists)"),
    (too_few_buckets, "copies", "set users.num_buckets=8"),
    (fewer_users_than_copies, "copies", "set placement.generator_actors=3"),
    (missing_users, "users", "no file"),
    (broken_users, "users", "not JSON"),
    (users_of_another_task, "users", "check that lamp.task is the task"),
    (users_that_are_no_parquet, "users", "cannot be read as Parquet"),
    (nobody_new, "users", "no user is new"),
    (missing_split, "users", "dev_questions.json"),
    (cut_split, "users", "is not valid JSON"),
    (unknown_setting, "configuration", "did you mean drafts.num_samples?"),
    (no_yaml, "configuration", "cannot read the configuration"),
    (unknown_task, "configuration", "built in are LaMP_1"),
    (no_gpu, "gpus", "`nvidia-smi` must list it"),
    (small_gpu, "gpu memory", "placement.generator_gpus=2"),
    (old_gpu, "gpu generation", "set generator.dtype=float16"),
    (old_driver, "cuda", "driver 580 or newer"),
    (torch_for_cpus, "cuda", "make install LOCK=gpu"),
    (broken_torch, "torch", "make a new environment"),
    (little_memory, "memory", "placement.generator_kv_cache_gigabytes"),
    (missing_package, "packages", "pip install 'hydra_ray[gpu]'"),
    (retriever_in_no_store, "encoder: retrieve", "only be fetched from S3"),
    (folder_that_is_relative, "generator", "a folder must be absolute"),
    (address_of_submissions, "work", "jobs are submitted there"),
    (address_of_ray_client, "work", "Ray Client"),
    (too_few_cores, "profiles: generator", "needs 4 CPU on one node"),
]


@pytest.mark.parametrize(("spoil", "name", "remedy"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_wrong_is_one_line_that_says_what_to_do(
    spoil: Callable[[Setup], None], name: str, remedy: str, setup: Setup, capsys: pytest.CaptureFixture[str]
):
    spoil(setup)
    assert main(["doctor", str(setup.config)]) == 1
    output = capsys.readouterr()
    problems = [line for line in output.out.splitlines() if not line.startswith("ok ")]
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"PROBLEM {name}  ")
    assert remedy in problems[0].partition("  -> ")[2]
    assert "secret" not in output.out + output.err


def test_a_file_that_is_not_there_is_a_problem_and_no_model(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "/no/such.yaml"]) == 1
    assert "PROBLEM configuration" in capsys.readouterr().out


def test_settings_change_the_configuration_that_is_examined(setup: Setup, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", str(setup.config), "placement.generator_actors=8"]) == 1
    assert main(["doctor", str(setup.config), "placement.generator_actors=8", "users.num_buckets=32"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("subjects", [["run.yaml", "other.yaml"], ["run.yaml", "org/name"], ["users.num_buckets=2"]])
def test_subjects_that_do_not_go_together_are_refused(subjects: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", *subjects]) == 2
    assert "doctor takes one configuration" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_users_file_that_may_not_be_read_is_a_problem(setup: Setup, capsys: pytest.CaptureFixture[str]):
    for folder in (setup.folder, *setup.folder.parents):
        if folder.stat().st_uid == 0 and folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    for folder, _, names in os.walk(setup.folder):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            path.chmod(0o777)
    setup.users.chmod(0)
    os.seteuid(65534)
    try:
        status = main(["doctor", str(setup.config)])
    finally:
        os.seteuid(0)
    problems = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok ")]
    assert status == 1
    assert len(problems) == 1, problems
    assert "PROBLEM users" in problems[0]
    assert "give this program's user the right to read it" in problems[0]


def test_where_a_cluster_does_the_work_this_machine_need_not_hold_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    setup.be_on(machine())
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert main(["doctor", str(setup.config)]) == 0
    assert "hydra-ray doctor --cluster" in capsys.readouterr().out


def test_each_wrong_setting_is_a_problem_of_its_own(setup: Setup, capsys: pytest.CaptureFixture[str]):
    setup.change(drafts={"num_sample": 3, "num_records": 0}, users={"num_buckets": 0})
    assert main(["doctor", str(setup.config)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("PROBLEM configuration") for line in lines)
    told = [line.partition("  -> ")[2].partition(":")[0] for line in lines]
    assert sorted(told) == ["drafts.num_records", "drafts.num_sample", "users.num_buckets"]


def test_a_sweeps_configuration_is_told_from_a_runs(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "sweep"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "is a sweep's" in line
    assert "doctor takes the configuration of a run" in line
