"""Forecast of a run before it is paid for: requests, tokens, time, cost, disk, and stages that are complete."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra_ray.config import RunConfig
from hydra_ray.forecast.calibration import NUM_REQUESTS, Calibration, CalibrationJob, chosen_requests
from hydra_ray.forecast.counting import StageVolume, count_stages, label_tokens, previewed_requests, users_of
from hydra_ray.forecast.disk import expected_bytes
from hydra_ray.forecast.durations import other_seconds
from hydra_ray.forecast.past_runs import (
    WRITTEN_SHARE,
    Speed,
    Written,
    fit_speed,
    past_observations,
    past_runs,
    past_written,
)
from hydra_ray.forecast.prices import limited_seconds, price_of
from hydra_ray.forecast.user_sample import Estimate, UserSample, sample_users
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.runs.budget import units_of_copy
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.users import read_users_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_USERS = 500
"""Default number of users to sample: enough for an error of a few per cent."""
NOT_KNOWN = "not known"
Measure = Callable[[CalibrationJob], Calibration]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageForecast:
    """Forecast of one stage. Key: name."""

    name: str
    is_complete: bool
    volume: StageVolume | None
    """Requests; None for stages that do not use the generator."""
    asking_seconds: float | None
    """Wall time in which generators answer new requests; None where their speed is not known."""
    other_seconds: float
    """Wall time of everything else."""

    @property
    def seconds(self) -> float | None:
        """Wall time of computing it, 0 if it is complete; None where it is not known."""
        if self.is_complete:
            return 0.0
        return None if self.asking_seconds is None else self.asking_seconds + self.other_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecast of a run."""

    run: str
    counters: Mapping[str, float]
    """Counters of the users stage: users, train_users, new_users, records, queries, rejected."""
    num_sampled: int
    """Number of users in the sample."""
    stages: tuple[StageForecast, ...]
    speed_source: str
    """Source of the generator's speed."""
    unit: str
    """Resource that generators hold while they work: GPU or CPU."""
    unit_hours: float | None
    """GPU hours or CPU hours of the remaining requests; None where the speed is not known."""
    cost: Estimate | None
    """Cost of the remaining requests; None where no price is set, or it depends on a speed that is not known."""
    num_bytes: float
    """Bytes of all stages below the root."""
    waits_for: tuple[str, ...] = ()
    """Stages that wait for batches of the endpoint, each for up to its completion window."""
    window: str = ""
    """Completion window of the batches, where there are any."""

    @property
    def volumes(self) -> list[StageVolume]:
        """Volumes of the stages that use the generator."""
        return [stage.volume for stage in self.stages if stage.volume is not None]

    @property
    def seconds(self) -> float | None:
        """Wall time of all stages; None where it is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None


def make_forecast(
    config: RunConfig, measure: Measure | None, max_users: int = MAX_USERS, *, is_blind: bool = False
) -> Forecast:
    """Return the forecast of the run `config`.

    The users stage is computed if it is missing: it is quick, and the run reuses it. Nothing else is written.

    Args:
        measure: runs the calibration; without it, the speed is estimated from past runs under the same root.
        max_users: number of users to sample.
        is_blind: whether to forecast as if nothing of this run existed, to compare with what it took.

    Raises:
        HydraError: as `plan_run` and `read_users_of`, or the calibration failed.
    """
    plan = _with_users(config)
    config = plan.config
    if config.generator.engine == "openai_batch" or not config.has_generator:
        measure = None  # nothing that can be measured tells when a batch is answered
    sample, tokenizer = sample_users(plan.users, max_users), open_tokenizer(config.generator)
    runs = past_runs(config, is_blind=is_blind)
    written = _expected_lengths(plan, sample, tokenizer) | past_written(runs, config)
    observations, source = (
        past_observations(runs, list(plan.asking())),
        f"{len(runs)} finished runs" if runs else NOT_KNOWN,
    )
    if measure is not None:
        calibration = measure(_calibration_job(plan, sample, tokenizer, Written(tokens=written)))
        written, observations = {**written, **calibration.written}, list(calibration.observations)
        source = f"a calibration of {sum(each.seconds for each in observations):.0f} s"
    volumes = count_stages(plan, sample, tokenizer, Written(tokens=written), is_blind=is_blind)
    by_name, speed = {volume.name: volume for volume in volumes}, fit_speed(observations)
    others = other_seconds(plan, sample.num_users, runs)
    asking = {name: _asking_seconds(volume, speed, config) for name, volume in by_name.items()}
    is_complete = {stage.name: not is_blind and stage.is_complete() for stage in plan.stages()}
    is_batched = config.generator.engine == "openai_batch"
    hours = 0.0 if is_batched else _unit_hours((each for name, each in asking.items() if not is_complete[name]), config)
    return Forecast(
        run=config.run,
        counters=sample.counters,
        num_sampled=sample.size,
        stages=tuple(
            StageForecast(
                name=stage.name,
                is_complete=is_complete[stage.name],
                volume=by_name.get(stage.name),
                asking_seconds=asking.get(stage.name, 0.0),
                other_seconds=others[stage.name],
            )
            for stage in plan.stages()
        ),
        speed_source=source,
        unit="GPU" if config.placement.generator_gpus else "CPU",
        unit_hours=hours,
        cost=price_of([each.new for each in volumes if not is_complete[each.name]], hours, config),
        num_bytes=expected_bytes(plan, volumes),
        waits_for=tuple(name for name in asking if is_batched and asking[name] and not is_complete[name]),
        window=config.generator.batch.completion_window if is_batched else "",
    )


def _with_users(config: RunConfig) -> Plan:
    """Return the plan with its users stage complete."""
    plan = plan_run(config)
    if not plan.users.is_complete():
        plan.users.complete(0.0, read_users_of(plan))
        plan = plan_run(config)  # only now is it known which buckets hold users
    return plan


def _expected_lengths(plan: Plan, sample: UserSample, tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
    """Return the tokens per generation of stages whose generations are constrained to labels, thoughts included."""
    if not (plan.task.is_closed and plan.config.generator.can_constrain):
        return {}
    names = [name for name, asks in plan.asking().items() if asks.generations == "answers"]
    thought = WRITTEN_SHARE * plan.config.generator.thinking_tokens
    return dict.fromkeys(names, label_tokens(sample, plan.task, tokenizer) + thought)


def _calibration_job(
    plan: Plan, sample: UserSample, tokenizer: "PreTrainedTokenizerBase", written: Written
) -> CalibrationJob:
    """Return the first requests of each generating stage, from the first users of the sample's first bucket only, since
    the whole sample may be large."""
    bucket, users = next(iter(sample.users.items()))
    asked = previewed_requests(plan, bucket, users[:NUM_REQUESTS], tokenizer, written, is_blind=True)
    ids = [user.user_id for user in users[:NUM_REQUESTS]]
    chosen = {name: chosen_requests(users_of(requests, ids), NUM_REQUESTS) for name, requests in asked.items()}
    return CalibrationJob(
        generator=plan.config.generator, placement=plan.config.placement, task=plan.task, requests=chosen
    )


def _asking_seconds(volume: StageVolume, speed: Speed | None, config: RunConfig) -> float | None:
    """Return the wall time in which generators answer the new requests; of batches the longest that is promised."""
    if config.generator.engine == "openai_batch":
        return float(config.generator.batch.window_seconds) if volume.new.requests.value else 0.0
    if speed is None:
        return None
    tokens = volume.new.prompt_tokens.value, volume.new.generated_tokens.value
    seconds = speed.seconds(*tokens) / config.placement.generator_actors
    return max(seconds, limited_seconds(volume.new, config.generator))


def _unit_hours(seconds: Iterable[float | None], config: RunConfig) -> float | None:
    known = list(seconds)
    total = sum(each for each in known if each is not None)
    copies = config.placement.generator_actors
    return None if None in known else total * copies * units_of_copy(config.placement) / 3600
