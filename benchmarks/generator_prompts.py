"""Requests of the generating stages, for benchmarks: probes and drafts of real or planted users."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra_ray.config import GeneratorConfig, PlantedConfig, ProbesConfig, RetrieveConfig, Task
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.requests import ask
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.planted import write_planted
from hydra_ray.retrieve.ranking import rank_queries
from hydra_ray.rows import Request, User

RECORDS_A_DRAFT, SAMPLES_A_DRAFT = 4, 8
RECORDS_A_QUERY, PSEUDO_QUERIES = 10, 10


def read_users(root: str | None, task: Task) -> list[User]:
    """Return users of the development split of `root`, or planted ones."""
    with tempfile.TemporaryDirectory(prefix="hydra_ray-generate-") as folder:
        if root is None:
            write_planted(PlantedConfig(num_train_users=1, num_new_users=60), Path(folder))
        samples = read_samples(task, root or folder, "dev", is_new=True)
        return [sample.user for sample in samples if isinstance(sample, Sample)]


def probes(users: Sequence[User], task: Task, generator: GeneratorConfig) -> Iterator[Request]:
    """Yield the stage's requests, user by user and query by query: one for each retrieved record."""
    tokenizer = open_tokenizer(generator)
    settings = ProbesConfig(num_records=RECORDS_A_QUERY, num_pseudo_queries=PSEUDO_QUERIES)
    for user in users:
        for ranked in rank_queries(user, task, settings, RetrieveConfig(), None):
            for each in ranked.retrieved:
                yield ask(
                    user_id=user.user_id,
                    examples=ranked.records([each.record_id]),
                    query_input=ranked.query.input,
                    task=task,
                    tokenizer=tokenizer,
                    config=generator,
                )


def drafts(users: Sequence[User], task: Task, generator: GeneratorConfig) -> Iterator[Request]:
    """Yield one request for several samples for each user and query."""
    tokenizer = open_tokenizer(generator)
    for user in users:
        for query in user.queries:
            yield ask(
                user_id=user.user_id,
                examples=user.history[:RECORDS_A_DRAFT],
                query_input=query.input,
                task=task,
                tokenizer=tokenizer,
                config=generator,
                num_samples=SAMPLES_A_DRAFT,
                temperature=1.0,
            )
