"""The sections `placement` and `budget`: where a run works and what it may cost. They change no result."""

from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from hydra_ray.config.section import LabelKey, LabelSelector, ResourceName, Section


class BudgetConfig(Section):
    """Budget: what a run may cost before it stops. Changes no result; `hydra-ray plan` tells what a run will cost."""

    max_tokens: int | None = Field(default=None, gt=0)
    """Largest number of prompt and generated tokens asked for the run's stages, whichever run asks them; what was
    answered before the stages were made is not counted. Null sets no limit."""
    max_cost: float | None = Field(default=None, gt=0)
    """Largest cost of these tokens and of the generators' hours, in the currency of the prices. Null sets no limit."""
    hour_price: float = Field(default=0, ge=0)
    """Price of an hour of one GPU that a copy of the generator holds, or of one CPU where it holds no GPU. The prices
    of an endpoint are in `generator.api`."""


class PlacementConfig(Section):
    """Placement: where the work runs, and what each kind of work reserves. Changes no result."""

    generator_actors: int = Field(default=1, gt=0)
    """Number of copies of the generator."""
    generator_cpus: float = Field(default=1, ge=0)
    """Number of Ray CPUs that a copy of the generator reserves."""
    generator_gpus: float = Field(default=0, ge=0)
    """Number of Ray GPUs that a copy of the generator reserves. More than 1 must be a whole number: the copy's ranks,
    tensor parallel unless `generator.engine_args` divides them otherwise."""
    generator_threads: int = Field(default=2, gt=0)
    """Number of OpenMP threads of a copy of the generator on CPU."""
    generator_kv_cache_gigabytes: int = Field(default=1, gt=0)
    """Size of the key-value cache of a copy of the generator on CPU, in gigabytes."""
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory that a copy of the generator takes."""
    max_concurrent_sequences: int | None = Field(default=None, gt=0)
    """Largest number of sequences that a copy of the generator decodes at the same time. Null is 64 on CPU, and on GPUs
    as many as vLLM chooses for them (256 or 1,024)."""
    encoder_actors: int = Field(default=1, gt=0)
    """Number of copies of the encoder, and of trained bases, that read the texts of very many users."""
    encoder_threads: int = Field(default=2, gt=0)
    """Number of OpenMP threads of a copy of the encoder."""
    encoder_gpus: float = Field(default=0, ge=0, le=1)
    """Number of Ray GPUs, or share of one, that a copy of the encoder reserves; 0 encodes on CPU."""
    train_workers: int = Field(default=1, gt=0)
    """Number of workers that train a base: one as a Ray task, several by Ray Train."""
    train_gpus_per_worker: float = Field(default=0, ge=0)
    """Number of Ray GPUs that each training worker reserves; 0 trains on CPU with gloo, more with NCCL."""
    train_threads: int = Field(default=2, gt=0)
    """Number of OpenMP threads of all training workers together, on CPU."""
    zero_stage: int = Field(default=1, ge=0, le=2)
    """ZeRO stage of DeepSpeed: 1 shards the optimizer's state over the workers, 2 the gradients too. 0 trains with
    torch alone; so does one worker, which has nothing to shard, and stage 1 where DeepSpeed is not installed."""
    max_concurrent_trials: int = Field(default=2, gt=0)
    """Largest number of Ray Tune trials that fit heads at the same time."""
    generator_labels: dict[LabelKey, LabelSelector] = Field(default={})
    """Labels of the nodes on which copies of the generator may run, such as `{ray.io/market-type: spot}`. The value of
    a label is one value, `in(a, b)` for any of several, or begins with `!` for what it must not be."""
    generator_resources: dict[ResourceName, PositiveFloat] = Field(default={})
    """Custom Ray resources that a copy of the generator reserves; CPU, GPU and memory are none."""
    train_labels: dict[LabelKey, LabelSelector] = Field(default={})
    """Labels of the nodes on which bases are trained, written as in `generator_labels`."""
    train_resources: dict[ResourceName, PositiveFloat] = Field(default={})
    """Custom Ray resources that each training worker reserves; CPU, GPU and memory are none."""
    encoder_labels: dict[LabelKey, LabelSelector] = Field(default={})
    """Labels of the nodes on which copies of the encoder that reserve a GPU may run, written as in `generator_labels`;
    those without a GPU run where all other work does."""
    encoder_resources: dict[ResourceName, PositiveFloat] = Field(default={})
    """Custom Ray resources that a copy of the encoder with a GPU reserves; CPU, GPU and memory are none."""
    step_labels: dict[LabelKey, LabelSelector] = Field(default={})
    """Labels of the nodes for all other work (steps on one part, encoding on CPU, fitting of heads), written
    as in `generator_labels`."""
    step_resources: dict[ResourceName, PositiveFloat] = Field(default={})
    """Custom Ray resources that each task or actor of all other work reserves; CPU, GPU and memory are none."""

    @property
    def useful_zero_stage(self) -> int:
        """`zero_stage` where several workers train; 0 for one, which has nothing to shard."""
        return self.zero_stage if self.train_workers > 1 else 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.generator_gpus > 1 and self.generator_gpus % 1:
            raise ValueError("generator_gpus above 1 are ranks of one copy: a whole number")
        custom = {*self.generator_resources, *self.train_resources, *self.encoder_resources, *self.step_resources}
        if known := custom & {"CPU", "GPU", "memory"}:
            raise ValueError(f"{', '.join(sorted(known))} are no custom resources: use generator_cpus and the like")
        return self
