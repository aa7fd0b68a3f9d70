"""Use of a generator's chat template such that nothing of a prompt gets lost.

A template is tried when it is opened (`hydra_ray.generate.template_trials`). Where a text gets lost, other ways of use
are tried: the instruction inside the first user turn, contents as lists of parts, and the start of an answer added
where the template writes none.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hydra_ray.config import GeneratorConfig
from hydra_ray.errors import ModelError
from hydra_ray.generate.control_tokens import control_pattern
from hydra_ray.generate.template_arguments import THINKING_SWITCHES, template_arguments
from hydra_ray.generate.template_trials import (
    REMEDY,
    loss,
    missing_answer_start,
    trial_prompts,
    turn_marks,
    with_one_start,
)
from hydra_ray.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatTemplate:
    """A chat template, and how it is used."""

    tokenizer: "PreTrainedTokenizerBase" = field(repr=False)
    text: str
    """Jinja source."""
    arguments: Mapping[str, Any]
    """Arguments besides the messages."""
    has_system: bool = True
    """Whether it takes a system turn; where not, the instruction belongs into the first user turn."""
    has_parts: bool = False
    """Whether contents are lists of parts."""
    has_double_start: bool = False
    """Whether it writes the token for the beginning of a text although the tokenizer adds one as well."""
    answer_start: str = ""
    """Start of an answer, where the template does not write it."""
    marks: tuple[str, ...] = ()
    """Patterns of texts that mark turns and are no control tokens."""

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text of a prompt, up to where its answer begins.

        Raises:
            ModelError: the template refuses these turns.
        """
        try:
            text = self.raw(messages)
        except Exception as error:  # a template is a program: it may raise anything
            # Its words may quote a user's text.
            raise ModelError(
                f"the chat template of {self.tokenizer.name_or_path} fails on a prompt with the turns "
                f"{', '.join(message.role for message in messages)} ({type(error).__name__}). {REMEDY}"
            ) from error
        return text + self.answer_start

    @property
    def control_pattern(self) -> re.Pattern[str]:
        """Pattern of what no text of a prompt may contain."""
        return control_pattern(self.tokenizer, self.marks)

    @property
    def repairs(self) -> str:
        """What is rendered differently from the template's own way for the same messages; empty where nothing is."""
        switched = {name: each for name, each in self.arguments.items() if name in THINKING_SWITCHES}
        found = {
            "parts": self.has_parts,
            "start": self.has_double_start,
            "answer": self.answer_start,
            "switched": switched,
        }
        return json.dumps(found, sort_keys=True) if any(found.values()) else ""

    def raw(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Return what the template writes; it may raise anything."""
        turns = [{"role": message.role, "content": self._content(message)} for message in messages]
        text = self.tokenizer.apply_chat_template(
            turns,
            chat_template=self.text,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **self.arguments,
        )
        assert isinstance(text, str)
        return text.removeprefix(str(self.tokenizer.bos_token)) if self.has_double_start else text

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": message.content}] if self.has_parts else message.content


def open_template(tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig | None = None) -> ChatTemplate:
    """Return the chat template of a generator, used such that nothing of a prompt gets lost.

    A model whose template has a switch of thinking does not think, unless `generator.chat_template_kwargs` or
    `generator.thinking_tokens` say so.

    Args:
        config: settings of the generator; None for the template's own defaults.

    Raises:
        ModelError: there is no template, or parts of prompts get lost in it.
        ConfigError: an argument of `generator.chat_template_kwargs` is unknown to the template.
    """
    if config is None:
        return _opened(tokenizer, "{}", is_local=False, is_thinking=True, prompt_form="chat")
    return _opened(
        tokenizer,
        json.dumps(config.chat_template_kwargs, sort_keys=True),
        is_local=config.api is None,
        is_thinking=config.thinking_tokens > 0,
        prompt_form=config.prompt_form,
    )


@lru_cache(maxsize=8)
def _opened(
    tokenizer: "PreTrainedTokenizerBase", given: str, *, is_local: bool, is_thinking: bool, prompt_form: str
) -> ChatTemplate:
    text = _source(tokenizer)
    arguments = template_arguments(tokenizer, text, json.loads(given), is_local=is_local, is_thinking=is_thinking)
    conversations = trial_prompts(prompt_form)
    first, *others = (
        ChatTemplate(tokenizer=tokenizer, text=text, arguments=arguments, has_system=has_system, has_parts=has_parts)
        for has_system, has_parts in ((True, False), (True, True), (False, False), (False, True))
    )
    reason = loss(first, conversations)
    usable = first if reason is None else next((each for each in others if loss(each, conversations) is None), None)
    if usable is None:
        raise ModelError(f"the chat template of {tokenizer.name_or_path} {reason}. {REMEDY}")
    usable = with_one_start(usable)
    usable = replace(usable, answer_start=missing_answer_start(usable))
    return replace(usable, marks=tuple(turn_marks(usable)))


def _source(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the source of a tokenizer's chat template, of several the one named default."""
    found: object = tokenizer.chat_template
    if isinstance(found, Mapping):
        if "default" not in found and len(found) != 1:
            raise ModelError(
                f"{tokenizer.name_or_path} has the chat templates {', '.join(sorted(map(str, found)))} and none named "
                "default: name the one to use so, in its additional_chat_templates or tokenizer_config.json."
            )
        found = found["default"] if "default" in found else next(iter(found.values()))
    if not found:
        raise ModelError(
            f"the generator {tokenizer.name_or_path} has no chat template; prompts are chats. Set a model that was "
            "tuned to follow instructions."
        )
    if not isinstance(found, str):
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} is of type {type(found).__name__}, expected text: put the "
            "model's tokenizer files there again."
        )
    return found
