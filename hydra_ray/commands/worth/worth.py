"""`hydra-ray worth`: what histories alone tell of what personalization would gain, before anything is paid.

No generator is asked, nothing is kept, and no Ray is started.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from hydra_ray.commands.init.initialize import Wishes, initialize
from hydra_ray.commands.worth.held_out import OWN, RECORDS, TEXT, HeldOut, held_out
from hydra_ray.commands.worth.histories import Histories, read_histories
from hydra_ray.commands.worth.label_shares import LabelShares, label_shares
from hydra_ray.commands.worth.writing_style import Trait, writing_style
from hydra_ray.config import RunConfig, Task, check_config
from hydra_ray.config.yaml_documents import parse_document
from hydra_ray.errors import ConfigError, InputError
from hydra_ray.lamp.choices import items_of
from hydra_ray.lamp.tasks import task_of
from hydra_ray.retrieve.dense import Encode
from hydra_ray.rows import User

MIN_USERS = 10
"""Number of users with two records on different inputs below which nothing is computed."""

Verdict = Literal["personal", "nothing personal can be shown", "too little data"]
Expected = Literal["own heads", "records", "style", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much data there is."""

    num_users_read: int
    """Number of users in the files."""
    num_users: int
    """Number of users with usable records who were looked at."""
    is_whole: bool
    """Whether these are all with usable records, and not a sample."""
    num_rejected: int
    num_records: int
    records_per_user: tuple[float, float, float]
    """Quartiles over users of the number of usable records."""
    num_comparable_users: int
    """Number of users with two records or more on different inputs."""
    num_inputs: int
    """Number of distinct inputs, or of preferences of distinct candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What histories tell. Figures that the kind of task does not have are None."""

    task: str
    """Name of the task, as guessed."""
    kind: str
    verdict: Verdict
    expected: Expected
    """Which kind of gain is to be expected."""
    seen: tuple[str, ...]
    """What was seen in the files and guessed of them."""
    amount: Amount
    labels: LabelShares | None = None
    held_out: HeldOut | None = None
    style: tuple[Trait, ...] | None = None


def worth(wishes: Wishes, max_users: int, open_encode: Callable[[RunConfig], Encode]) -> Worth:
    """Tell what personalization would gain on a person's files.

    Args:
        wishes: files and what is known of them, as `hydra-ray init` takes them.
        max_users: number of users to look at; more are sampled.
        open_encode: function that opens the text encoder; closed tasks need it.

    Raises:
        HydraError: the files cannot be read, or it cannot be told what is in them; says what to give.
    """
    if max_users < 1:
        raise ConfigError(f"--max-users is {max_users}, expected 1 or more")
    made = initialize(wishes)
    settings = parse_document(made.text)
    config = check_config(settings if isinstance(settings, dict) else {}, source="the guessed configuration")
    task = task_of(config.lamp)
    if task.is_closed and not task.has_labelled_records:
        raise InputError(
            f"records of {task.name} show no labels, so that histories alone tell nothing of it: try a run of a few "
            "users, users.max_users=100"
        )
    found = read_histories(config, task, max_users)
    amount = _amount(task, found)
    # Questions of queries are for runs; here there are none.
    seen = tuple(line for line in made.lines if not line.startswith(("no targets:", "users:")))
    said = partial(Worth, task=task.name, kind=task.kind, seen=seen, amount=amount)
    if amount.num_comparable_users < MIN_USERS:
        return said(verdict="too little data", expected="none")
    if not task.has_labelled_records:
        style = writing_style(found.users)
        is_personal = any(trait.is_above_zero for trait in style)
        return said(
            verdict="personal" if is_personal else "nothing personal can be shown",
            expected="style" if is_personal else "none",
            style=style,
        )
    systems = held_out(task, found.users, open_encode(config))
    expected = expected_of(systems)
    return said(
        verdict="nothing personal can be shown" if expected == "none" else "personal",
        expected=expected,
        labels=label_shares(task, found.users) if task.is_closed else None,
        held_out=systems,
    )


def open_encode(config: RunConfig) -> Encode:
    """Open the text encoder of a configuration's adapter on CPU, without transformers' report of its weights."""
    from transformers.utils import logging

    from hydra_ray.scorer.base.encoder import open_encoder

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    base = config.adapter.base
    return open_encoder(base.encoder, base.max_text_tokens)


def expected_of(systems: HeldOut) -> Expected:
    """Return the kind of gain that intervals show: of own heads where they gain beyond the records, else of records."""
    if systems.gain(OWN, RECORDS).is_above_zero and systems.gain(OWN, TEXT).is_above_zero:
        return "own heads"
    return "records" if systems.gain(RECORDS, TEXT).is_above_zero else "none"


def _amount(task: Task, found: Histories) -> Amount:
    numbers = [len(user.history) for user in found.users]
    low, middle, high = (float(each) for each in np.percentile(numbers or [0], [25, 50, 75]))
    return Amount(
        num_users_read=found.num_users_read,
        num_users=len(found.users),
        is_whole=found.is_whole,
        num_rejected=found.num_rejected,
        num_records=sum(numbers),
        records_per_user=(low, middle, high),
        num_comparable_users=_num_comparable(found.users),
        num_inputs=len({item for user in found.users for each in user.history for item in items_of(task, each.input)}),
    )


def _num_comparable(users: Sequence[User]) -> int:
    return sum(len({record.input for record in user.history}) > 1 for user in users)
