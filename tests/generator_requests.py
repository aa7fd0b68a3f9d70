"""Requests to a generator about planted users' stories."""

import dataclasses

from hydra_ray.lamp.tasks import PLANTED_LABELS, TASKS
from hydra_ray.rows import Message, Request

PLANTED = TASKS["planted"]


def request(number: int, **changes) -> Request:
    """A greedy request for one of the labels, with one to three examples."""
    messages = [Message(role="system", content=PLANTED.instruction)]
    for position in range(1 + number % 3):
        label = PLANTED_LABELS[(number + position) % len(PLANTED_LABELS)]
        messages.append(Message(role="user", content=f"A long story about {label}, number {number} of {position}."))
        messages.append(Message(role="assistant", content=label))
    messages.append(Message(role="user", content=f"A story with dogs, cats and {number} mice."))
    usual = Request(
        request_id=f"r{number}",
        user_id="u",
        messages=tuple(messages),
        num_samples=1,
        temperature=0,
        max_tokens=8,
        choices=PLANTED_LABELS,
        num_top_tokens=0,
        seed=7,
    )
    return dataclasses.replace(usual, **changes)
