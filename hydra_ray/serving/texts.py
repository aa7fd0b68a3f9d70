"""Texts of requests, which may be given as lists of messages."""

from collections.abc import Callable
from dataclasses import replace

from hydra_ray.conversations import Conversation, conversation_text, last_answer
from hydra_ray.errors import InputError
from hydra_ray.rows import Record


def input_text(given: str | Conversation, what: str) -> str:
    """Return an input as it is in tables.

    Raises:
        InputError: it is a list of messages that is none; named by `what`.
    """
    return given if isinstance(given, str) else _read(conversation_text, given, what)


def answer_text(given: str | Conversation, what: str) -> str:
    """Return an answer: of a list of messages the last one, the assistant's.

    Raises:
        InputError: as `input_text`.
    """
    return given if isinstance(given, str) else _read(last_answer, given, what)


def with_text(record: Record) -> Record:
    """Return a record whose input may be a list of messages as it is in tables.

    Raises:
        InputError: as `input_text`.
    """
    return replace(record, input=input_text(record.input, f"the input of record {record.record_id!r}"))


def _read(read: Callable[[object], str], given: Conversation, what: str) -> str:
    try:
        return read(given)
    except ValueError as error:
        raise InputError(f"{what} is {error}.") from error
