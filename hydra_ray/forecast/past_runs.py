"""Estimates from finished runs under the same root: lengths of generations, generator speed, stage times.

They are read from each run's metrics.json, which records what each stage took.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import nnls

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.evaluate.metrics_file import REPORT_ANEW
from hydra_ray.models import open_model
from hydra_ray.stages.definition import asking_definitions

WRITTEN_SHARE = 0.75
"""Default share of the length limit that a small model uses for free text: .6 to .9 on five real sets."""
_GENERATED_COST = 20.0
"""Assumed cost of a generated token in prompt tokens, where observations cannot separate the two."""
_PRIOR_WEIGHT = 0.05

Stages = Mapping[str, Mapping[str, Any]]
"""Stages of a run by name, as in metrics.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Expected lengths of generations."""

    tokens: Mapping[str, float]
    """Tokens per generation, by generating stage; stages not listed are expected to use a share of their limit."""

    def of(self, stage: str, max_tokens: int) -> float:
        """Return the expected tokens of one generation of a stage.

        Args:
            max_tokens: limit of the generation.
        """
        return min(self.tokens.get(stage, WRITTEN_SHARE * max_tokens), max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Tokens of some requests and the time that one generator took for them."""

    prompt_tokens: float
    generated_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Time of one generator per token, in seconds; cached prompt tokens count like others."""

    prompt_seconds: float
    generated_seconds: float

    def seconds(self, prompt_tokens: float, generated_tokens: float) -> float:
        """Return the time for these numbers of tokens."""
        return prompt_tokens * self.prompt_seconds + generated_tokens * self.generated_seconds


def fit_speed(observations: Sequence[Observation]) -> Speed | None:
    """Return the speed that minimizes the squared relative errors of the observations; None without any.

    Both coefficients are non-negative, and a weak prior ties one to the other where the observations do not determine
    it.
    """
    seen = [each for each in observations if each.seconds > 0 and each.prompt_tokens + each.generated_tokens > 0]
    if not seen:
        return None
    rows = [(each.prompt_tokens / each.seconds, each.generated_tokens / each.seconds) for each in seen]
    tokens_a_second = _PRIOR_WEIGHT * float(np.mean([sum(row) for row in rows]))
    prior = (tokens_a_second * _GENERATED_COST, -tokens_a_second)
    prompt, generated = nnls(np.array([*rows, prior]), np.array([*[1.0] * len(rows), 0.0]))[0]
    return Speed(prompt_seconds=float(prompt), generated_seconds=float(generated))


def past_runs(config: RunConfig, *, is_blind: bool) -> list[tuple[Mapping[str, Any], Stages]]:
    """Return configuration and stages of the finished runs under the root that used the same generator.

    Args:
        is_blind: whether to leave out the run itself.
    """
    runs = storage.join(config.storage.root, "runs")
    found: list[tuple[Mapping[str, Any], Stages]] = []
    for path in storage.list_tree(runs):
        if path.endswith("/metrics.json") and not (is_blind and path == f"{config.run}/metrics.json"):
            metrics = storage.read_json(storage.join(runs, path), {"config": dict, "stages": list}, REPORT_ANEW)
            if _generator(metrics["config"]) == _generator(config.model_dump(mode="json")):
                found.append((metrics["config"], {stage["name"]: stage for stage in metrics["stages"]}))
    return found


def past_observations(runs: Iterable[tuple[Mapping[str, Any], Stages]], names: Sequence[str]) -> list[Observation]:
    """Return tokens and time of the generating stages `names` of past runs, scaled to the requests that they sent
    themselves."""
    return [
        Observation(
            prompt_tokens=counters["prompt_tokens"] * share,
            generated_tokens=counters["generated_tokens"] * share,
            seconds=counters["generator_seconds"],
        )
        for _, stages in runs
        for counters in (stages[name]["counters"] for name in names if name in stages)
        if (share := counters.get("asked_now", 0) / max(counters.get("requests", 0), 1)) > 0
    ]


def past_written(runs: Iterable[tuple[Mapping[str, Any], Stages]], config: RunConfig) -> dict[str, float]:
    """Return the mean tokens of a generation in each generating stage of past runs of the same task, if there are any.

    Answers are as long in every stage as in the first one that asks for them: there each answer is one generation,
    while several prompts of a later stage may share one.
    """
    made = [each for each in asking_definitions() if each.is_made(config)]
    texts = [each.name for each in made if each.asks and each.asks.generations == "text"]
    answers = [each.name for each in made if each.asks and each.asks.generations == "answers"]
    task = config.model_dump(mode="json")["lamp"]["task"]
    counters = {
        name: [stages[name]["counters"] for past, stages in runs if past["lamp"]["task"] == task and name in stages]
        for name in (*texts, *answers[:1])
    }
    found: dict[str, float] = {
        name: median(each["generated_tokens"] / each["answers"] for each in own if each.get("answers"))
        for name, own in counters.items()
        if any(each.get("answers") for each in own)
    }
    for first in found.keys() & {*answers[:1]}:
        found |= dict.fromkeys(answers[1:], found[first])
    return found


def _generator(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the settings that determine how fast the generator is and how much it writes."""
    generator = [config["generator"].get(name) for name in ("engine", "dtype", "prompt_form")]
    thinking_tokens = config["generator"].get("thinking_tokens", 0)  # older runs know none
    place = open_model(config["generator"]["model"]).place
    return (place, *generator, thinking_tokens, config["placement"]["generator_gpus"])
