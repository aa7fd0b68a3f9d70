"""Prompt forms: how a task's instruction, a user's records and a query become messages.

chat: a record is a pair of turns, its input the user's and its output the assistant's; the most relevant one comes
last, next to the query. Records that are not answers (`Task.is_history_labelled`) are quoted in the query's turn.
sentence: LaMP's own form (Salemi et al., 2024, appendix): a record is a sentence, the most relevant one first, and
everything is one message. summary: records as lines, and an instruction to write a profile of their user.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.config.section import is_plugin
from hydra_ray.errors import ConfigError
from hydra_ray.plugins import call_plugin
from hydra_ray.rows import Message

FORM = "generator.prompt_form"
"""Name of the setting."""

NO_INPUT = "Show me an example of the style to write in."
"""User's turn of an example whose record has an output only."""
ABOUT_USER = "About this user: "
"""Text before a profile."""
SUMMARY_INSTRUCTION = (
    "Here is what one person wrote or chose in the past. Describe in two or three sentences what this person likes and "
    "how this person writes or decides, so that somebody else could answer in this person's place. Write nothing else."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A record as it appears in a prompt."""

    input: str
    """Input of the record; empty where the form does not show it."""
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Texts of a prompt besides the task's own."""

    examples: tuple[Example, ...] = ()
    """Examples, the most relevant one last."""
    query: str = ""
    profile: str = ""
    """Description of the user; empty without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Renders the contents of a prompt as messages."""

    render: Callable[[Task, Contents], tuple[Message, ...]]
    shows_inputs: bool
    """Whether examples appear with their inputs."""
    no_input: str
    """Substitute for an empty input."""


def form_of(task: Task, config: GeneratorConfig) -> Form:
    """Return the form of the prompts that ask a task's queries."""
    if is_plugin(config.prompt_form):
        return _form_of_plugin(config.prompt_form)
    if config.prompt_form == "sentence":
        return Form(render=_sentence, shows_inputs=_has_input_in_sentence(task), no_input="")
    if task.is_history_labelled:
        return Form(render=_chat, shows_inputs=True, no_input=NO_INPUT)
    return Form(render=_documents, shows_inputs=False, no_input="")


@cache
def _form_of_plugin(name: str) -> Form:
    """Return the form of another package; equal forms are one, by which what is counted of a prompt is kept."""

    def render(task: Task, contents: Contents) -> tuple[Message, ...]:
        return _checked(name, call_plugin(name, FORM, task, contents))

    return Form(render=render, shows_inputs=True, no_input="")


def _checked(name: str, found: object) -> tuple[Message, ...]:
    """Return what a form of another package rendered, as messages."""
    expected = f"{FORM} is {name}; expected a list of hydra_ray.rows.Message, each with a role and a content"
    if not isinstance(found, list | tuple):
        raise ConfigError(f"{expected}, and it returned {type(found).__name__}")
    messages = tuple(cast(Sequence[object], found))
    for each in messages:
        if not isinstance(each, Message) or not isinstance(each.content, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{expected}, and it returned a list with {type(each).__name__}")
    turns = [each for each in messages if isinstance(each, Message)]
    roles = [each.role for each in turns]
    begin = 1 if roles[:1] == ["system"] else 0
    own = roles[begin:]
    if not own or own[-1] != "user" or own != [("user", "assistant")[place % 2] for place in range(len(own))]:
        raise ConfigError(
            f"{FORM} is {name}, which returned turns of {', '.join(roles) or 'nobody'}; expected user and assistant in "
            "turn, user first and last, and before them at most one of system"
        )
    return tuple(turns)


def summary_form(task: Task) -> Form:
    """Return the form of the prompt that asks for a profile."""
    return Form(render=_summary, shows_inputs=_has_input_in_sentence(task), no_input="")


def _chat(task: Task, contents: Contents) -> tuple[Message, ...]:
    turns = [_system(task, contents)]
    for example in contents.examples:
        turns.append(Message(role="user", content=example.input))
        turns.append(Message(role="assistant", content=example.output))
    return (*turns, Message(role="user", content=contents.query))


def _documents(task: Task, contents: Contents) -> tuple[Message, ...]:
    quoted = ", ".join(f'"{example.output}"' for example in contents.examples)
    heading = f"{task.history_heading} {quoted}\n\n" if quoted else ""
    return _system(task, contents), Message(role="user", content=heading + contents.query)


def _system(task: Task, contents: Contents) -> Message:
    profile = f"\n\n{ABOUT_USER}{contents.profile}" if contents.profile else ""
    return Message(role="system", content=task.instruction + profile)


def _sentence(task: Task, contents: Contents) -> tuple[Message, ...]:
    sentences = [_record_sentence(task, example) for example in reversed(contents.examples)]
    records = task.sentences.records.format(records=", and ".join(sentences)) if sentences else ""
    first_line, _, other_lines = contents.query.partition("\n")
    text = task.sentences.query.format(
        records=records,
        instruction=task.instruction,
        input=contents.query,
        first_line=first_line,
        other_lines=other_lines,
    )
    profile = f"{ABOUT_USER}{contents.profile}\n" if contents.profile else ""
    return (Message(role="user", content=profile + text),)


def _summary(task: Task, contents: Contents) -> tuple[Message, ...]:
    lines = "\n".join(f"- {_record_sentence(task, example)}" for example in contents.examples)
    return Message(role="system", content=SUMMARY_INSTRUCTION), Message(role="user", content=lines)


def _record_sentence(task: Task, example: Example) -> str:
    if not example.input and _has_input_in_sentence(task):
        return f'"{example.output}"'
    return task.sentences.record.format(input=example.input, output=example.output)


def _has_input_in_sentence(task: Task) -> bool:
    return "{input}" in task.sentences.record


def merged_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with the text of a leading system turn at the beginning of the first user turn."""
    if messages[0].role != "system":
        return tuple(messages)
    system, first, *others = messages
    return (replace(first, content=f"{system.content}\n\n{first.content}"), *others)
