"""Trials of a chat template with prompts of all forms that a run uses.

A unique word stands in place of each text. Each word must appear exactly once in what is rendered, and in order.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.generate.control_tokens import control_pattern
from hydra_ray.generate.prompt_forms import FORM, Contents, Example, form_of, merged_system, summary_form
from hydra_ray.rows import Message

if TYPE_CHECKING:
    from hydra_ray.generate.chat_template import ChatTemplate

REMEDY = (
    "Set another model, generator.chat_template_kwargs that it needs, or generator.prompt_form=sentence, which puts "
    "all into one turn."
)
"""What to do about a template that cannot be used."""
_MAX_STEPS = 1_000_000
"""Maximum number of steps of a trial: lines of compiled template code, and calls of any function. Published templates
take a few thousand, and their compilation some ten thousand."""
_COMPILED = "<template>"
"""File name of the code that a template is compiled to."""
_MAX_MARK = 64
"""Maximum length of a text between two turns that counts as a mark of a turn, in characters."""
_WORDS = ("instruction", "query", "profile", "input0", "output0", "input1", "output1")
_TURNS = {"instruction": "the system turn", "profile": "the system turn's second paragraph", "query": "the last turn"}
_WORD = re.compile("zq([a-z]+?[0-9]?)qz")
_PART = re.compile("""["']type["']\\s*:\\s*["']text["']""")
_LINE_ENDS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"


def trial_prompts(prompt_form: str) -> list[tuple[Message, ...]]:
    """Return prompts of all forms that a run of the setting may use, a unique word in place of each text.

    Raises:
        ConfigError: a form of another package fails, or loses the query.
    """
    word = {name: f"zq{name}qz" for name in _WORDS}
    examples = tuple(Example(input=word[f"input{place}"], output=word[f"output{place}"]) for place in range(2))
    config = GeneratorConfig(engine="fake", model="none", prompt_form=prompt_form)
    prompts: list[tuple[Message, ...]] = []
    for is_labelled in (True, False):
        task = Task(name="trial", kind="text", instruction=word["instruction"], is_history_labelled=is_labelled)
        for shown in (examples, ()):
            for profile in ("", word["profile"]):
                contents = Contents(examples=shown, query=word["query"], profile=profile)
                messages = form_of(task, config).render(task, contents)
                if not any(word["query"] in message.content for message in messages):
                    raise ConfigError(f"{FORM} is {prompt_form}, whose prompts have no query in them")
                prompts.append(messages)
        prompts.append(summary_form(task).render(task, Contents(examples=examples)))
    summary = [replace(each, content=f"{word['instruction']} {each.content}") for each in prompts[-1][:1]]
    return [*prompts[:-1], (*summary, *prompts[-1][1:])]


def loss(template: "ChatTemplate", conversations: Iterable[Sequence[Message]]) -> str | None:
    """Return what a way of using a template does wrong; None where every text appears exactly once and in order."""
    for messages in conversations:
        shown = messages if template.has_system else merged_system(messages)
        try:
            text = _bounded(lambda: template.raw(shown))  # noqa: B023 -- called at once
        except Exception as error:
            roles = ", ".join(message.role for message in shown)
            return f"refuses the turns {roles}: {str(error)[:300] or type(error).__name__}"
        expected = _WORD.findall(" ".join(message.content for message in shown))
        found = _WORD.findall(text)
        if template.has_parts and _PART.search(text):
            return "writes the markup of a part instead of its text"
        if found != expected:
            return _difference(expected, found)
    return None


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """Return how the texts of a rendered prompt differ from those of its messages."""
    named = {name: _TURNS.get(name, f"the {'user' if 'input' in name else 'assistant'} turn of an example")
             for name in expected}  # fmt: skip
    for name, turn in named.items():
        if found.count(name) != 1:
            return f"leaves out {turn}" if name not in found else f"writes {turn} {found.count(name)} times"
    return "changes the order of turns"


def _bounded(render: Callable[[], str]) -> str:
    """Return what `render` returns.

    Raises:
        TimeoutError: it takes more than _MAX_STEPS steps.
    """
    num_steps = 0

    def count(frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal num_steps
        num_steps += 1
        if num_steps > _MAX_STEPS:
            raise TimeoutError("it takes too many steps")
        return count if frame.f_code.co_filename == _COMPILED else None

    former = sys.gettrace()
    sys.settrace(count)
    try:
        return render()
    finally:
        sys.settrace(former)


def with_one_start(template: "ChatTemplate") -> "ChatTemplate":
    """Return the template used such that a prompt begins with at most one token for the beginning of a text."""
    tokenizer = template.tokenizer
    if tokenizer.bos_token_id is None:
        return template
    text = template.render([Message(role="user", content="x")])
    twice = [tokenizer.bos_token_id] * 2
    if list(tokenizer(text, add_special_tokens=False)["input_ids"][:2]) != twice:
        return template
    once = replace(template, has_double_start=True)
    text = once.render([Message(role="user", content="x")])
    if list(tokenizer(text, add_special_tokens=False)["input_ids"][:2]) == twice:
        raise ModelError(
            f"prompts of {tokenizer.name_or_path} begin with {tokenizer.bos_token} more than once: its chat template "
            "and its tokenizer both write it. Set another model."
        )
    return once


def missing_answer_start(template: "ChatTemplate") -> str:
    """Return the start of an answer where the template writes none after the last user turn."""
    query, answer = "zqqueryqz", "zqoutputqz"
    question = [Message(role="user", content=query)]
    with_prompt = template.raw(question)
    if with_prompt != template.raw(question, add_generation_prompt=False):
        return ""
    turns = [*question, Message(role="assistant", content=answer), *question]
    try:
        before_answer = template.raw(turns).partition(query)[2].partition(answer)[0]
    except Exception:
        return ""
    after_query = with_prompt.rpartition(query)[2]
    if not before_answer.startswith(after_query):
        if before_answer.strip() in after_query:
            return ""
        raise ModelError(
            f"the chat template of {template.tokenizer.name_or_path} does not write where an answer begins "
            f"(add_generation_prompt has no effect). {REMEDY}"
        )
    missing = before_answer.removeprefix(after_query)
    return missing if missing.strip() else ""


def turn_marks(template: "ChatTemplate") -> Iterator[str]:
    """Yield patterns of the texts between turns that are no control tokens, such as `User:` at the start of a line."""
    words = [f"zqturn{place}qz" for place in range(3)]
    roles = ("user", "assistant", "user")
    turns = [Message(role=role, content=word) for role, word in zip(roles, words, strict=True)]
    try:
        text = template.render(turns)
    except ModelError:  # one that takes single turns only
        return
    control = control_pattern(template.tokenizer)
    found: set[str] = set()
    for glue in re.split("zqturn[0-9]qz", text)[1:]:
        pieces = control.split(glue)
        for piece in pieces:
            mark = piece.strip()
            # A role's name beside a control token is an ordinary word, and marks nothing without that token.
            if len(mark) < 2 or len(mark) > _MAX_MARK or (len(pieces) > 1 and mark.isalnum()):
                continue
            before, _, after = piece.partition(mark)
            found.add(_mark_pattern(mark, is_first="\n" in before, is_alone=mark.isalnum() and "\n" in after))
    yield from sorted(found)


def _mark_pattern(mark: str, *, is_first: bool, is_alone: bool) -> str:
    """Return a pattern of a mark: at the start of a line, or as a line of its own, where it is written so."""
    is_word = mark[0].isalnum() and len(mark.split()) == 1
    before = f"(?<![^{_LINE_ENDS}])" if is_first else r"(?<!\w)" if is_word else ""
    return before + re.escape(mark) + (f"(?=[ \t]*(?:[{_LINE_ENDS}]|\\Z))" if is_alone else "")
