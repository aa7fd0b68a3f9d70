"""Prompts fitted to the generator's context: instruction, examples, query, and optionally a profile of the user.

Lengths are in the generator's tokens. Each text is tokenized once per process; whether a prompt fits is mostly decided
by a sum, and by rendering it only where the sum is close to the limit. No message contains a control token, so no text
opens or closes a turn.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.conversations import MAX_CHARACTERS_PER_TOKEN, is_conversation, message_texts, newest_that_fit
from hydra_ray.errors import ConfigError
from hydra_ray.generate.chat_template import ChatTemplate, open_template
from hydra_ray.generate.control_tokens import control_ids, defuse, harmless
from hydra_ray.generate.prompt_forms import Contents, Example, Form, form_of, merged_system, summary_form
from hydra_ray.rows import Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROFILE_TOKENS = 96
"""Length limit of a generated profile, in tokens."""

_MIN_INPUT_TOKENS = 16
"""Minimum length to which a record's input is cut: a shorter one is of little use, and the record is better dropped."""
_MIN_RECORD_TOKENS = 8
"""Assumed minimum length of a record, which bounds how many records are considered for a prompt."""
_SLACK_TOKENS = 4
"""Allowance per text for tokens that differ between a text alone and inside a prompt."""
_MAX_ATTEMPTS = 4
"""Maximum number of renderings of a prompt with the same examples; the first one nearly always fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A text without control tokens, and its length in tokens."""

    text: str
    num_tokens: int


_NOTHING = _Text(text="", num_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Texts that a prompt should contain."""

    pairs: tuple[tuple[_Text, _Text], ...] = ()
    """Inputs and outputs of the examples, the most relevant one last."""
    query: _Text = _NOTHING
    profile: _Text = _NOTHING

    def contents(self) -> Contents:
        return Contents(
            examples=tuple(Example(input=each.text, output=output.text) for each, output in self.pairs),
            query=self.query.text,
            profile=self.profile.text,
        )


def fit_messages(
    task: Task,
    examples: Sequence[Record],
    query_input: str,
    tokenizer: "PreTrainedTokenizerBase",
    config: GeneratorConfig,
    profile: str | None = None,
) -> tuple[Message, ...]:
    """Return the prompt for an answer to `query_input`, short enough to leave room for a thought and task.max_tokens.

    If everything together is too long, record inputs are cut evenly, then the least relevant examples are dropped, then
    the query is truncated, then the profile is left out. The instruction is never cut.

    Args:
        examples: records shown as examples, most relevant first.
        profile: description of the user (PAG, Richardson et al. 2023), put before everything else.

    Raises:
        ConfigError: not even the instruction and one token of the query fit.
        ModelError: the generator has no chat template, or one in which parts of prompts get lost.
    """
    form, template = form_of(task, config), open_template(tokenizer, config)
    texts = _Texts(
        pairs=_pairs(form, examples, template, config),
        query=_safe_text(template, query_input, config.max_text_tokens),
        profile=_safe_text(template, (profile or "").strip(), config.max_text_tokens),
    )
    room = config.max_model_tokens - config.thinking_tokens - task.max_tokens
    messages = (
        _fit_most(form, task, texts, template, room)
        or _fit_query(form, task, replace(texts, pairs=()), template, room)
        or _fit_query(form, task, replace(texts, pairs=(), profile=_NOTHING), template, room)
    )
    if messages is None:
        raise ConfigError(
            f"the instruction of task {task.name} and its answer of up to {task.max_tokens} tokens"
            f"{_thought_room(config)} leave no room for a query within generator.max_model_tokens: raise that, or "
            "shorten the instruction or lamp.task.max_tokens."
        )
    return messages


def profile_messages(
    task: Task, records: Sequence[Record], tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig
) -> tuple[Message, ...]:
    """Return the prompt for a profile of the user with `records`, short enough to leave room for PROFILE_TOKENS.

    It shows as many of the newest records as fit, the newest one last. Records without a date count as older than dated
    ones, and earlier ones in the history as older than later ones.

    Args:
        records: a user's history, at least one record.

    Raises:
        ConfigError: not even the shortest form of one record fits.
        ModelError: the generator has no chat template, or one in which parts of prompts get lost.
    """
    room = config.max_model_tokens - config.thinking_tokens - PROFILE_TOKENS
    oldest_first = sorted(records, key=lambda record: -math.inf if record.date is None else record.date)
    newest_first = oldest_first[::-1][: max(1, room // _MIN_RECORD_TOKENS)]
    form, template = summary_form(task), open_template(tokenizer, config)
    texts = _Texts(pairs=_pairs(form, newest_first, template, config))
    messages = _fit_most(form, task, texts, template, room, min_examples=1)
    if messages is None:
        raise ConfigError(
            f"generator.max_model_tokens leaves no room for a record of task {task.name} and a profile of "
            f"{PROFILE_TOKENS} tokens{_thought_room(config)}: raise it, or lower generator.max_text_tokens."
        )
    return messages


def _thought_room(config: GeneratorConfig) -> str:
    return f" after a thought of generator.thinking_tokens={config.thinking_tokens}" if config.thinking_tokens else ""


def render_prompt(
    messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig | None = None
) -> str:
    """Return the text of a prompt by the generator's chat template, up to where its answer begins.

    Args:
        config: settings of the generator; None for the template's own defaults.

    Raises:
        ModelError: the generator has no chat template, or one that refuses such turns.
    """
    return open_template(tokenizer, config).render(messages)


def count_prompt_tokens(
    messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase", config: GeneratorConfig | None = None
) -> int:
    """Return the length of the rendered prompt in tokens; see `render_prompt`."""
    return _length(messages, open_template(tokenizer, config))


def _pairs(
    form: Form, examples: Sequence[Record], template: ChatTemplate, config: GeneratorConfig
) -> tuple[tuple[_Text, _Text], ...]:
    """Return the inputs and outputs of `examples` (most relevant first) as the form shows them, most relevant last."""
    return tuple(
        (
            _safe_text(template, record.input.strip() or form.no_input, config.max_text_tokens)
            if form.shows_inputs
            else _NOTHING,
            _safe_text(template, record.output, config.max_text_tokens),
        )
        for record in reversed(examples)
    )


def _fit_most(
    form: Form,
    task: Task,
    texts: _Texts,
    template: ChatTemplate,
    room: int,
    min_examples: int = 0,
) -> tuple[Message, ...] | None:
    """Return a prompt with as many of the most relevant examples as fit; None where `min_examples` are too many."""
    for num_dropped in range(len(texts.pairs) - min_examples + 1):
        messages = _fit_examples(form, task, replace(texts, pairs=texts.pairs[num_dropped:]), template, room)
        if messages is not None:
            return messages
    return None


def _fit_examples(
    form: Form, task: Task, texts: _Texts, template: ChatTemplate, room: int
) -> tuple[Message, ...] | None:
    """Return a prompt with all examples, their inputs cut where needed; None where that is not enough."""
    lengths = [text.num_tokens for text, _ in texts.pairs]
    fixed = texts.query.num_tokens + texts.profile.num_tokens + sum(output.num_tokens for _, output in texts.pairs)
    # Checked first, because frames of very many examples are costly to count.
    if fixed + sum(min(length, _MIN_INPUT_TOKENS) for length in lengths) > room:
        return None
    fixed += _frame_tokens(template, task, form, len(lengths), bool(texts.profile.text))  # pyright: ignore[reportArgumentType]
    if fixed + sum(lengths) + _SLACK_TOKENS * (2 * len(lengths) + 2) <= room:
        return _messages(form, task, texts.contents(), template)
    excess = 0
    for _ in range(_MAX_ATTEMPTS):
        cap = _even_cap(lengths, room - fixed - excess)
        if cap < _MIN_INPUT_TOKENS and any(length > cap for length in lengths):
            return None
        cut = replace(texts, pairs=tuple((_cut(template, each, cap), output) for each, output in texts.pairs))
        messages = _messages(form, task, cut.contents(), template)
        over = _length(messages, template) - room
        if over <= 0:
            return messages
        excess += over
    return None


def _fit_query(form: Form, task: Task, texts: _Texts, template: ChatTemplate, room: int) -> tuple[Message, ...] | None:
    """Return a prompt whose query is cut until it fits; None where not even one token of it does."""
    limit = max(1, texts.query.num_tokens)
    while limit > 0:
        cut = replace(texts, query=_cut(template, texts.query, limit))
        messages = _messages(form, task, cut.contents(), template)
        over = _length(messages, template) - room
        if over <= 0:
            return messages
        limit = max(1, limit - over) if limit > 1 else 0
    return None


def _even_cap(lengths: Sequence[int], total: int) -> int:
    """Return the largest cap for which the lengths, each cut to it, sum to at most `total`."""
    remaining = total
    for position, length in enumerate(sorted(lengths)):
        share = remaining // (len(lengths) - position)
        if length > share:
            return max(0, share)
        remaining -= length
    return max(lengths, default=0)


def _cut(template: ChatTemplate, text: _Text, max_tokens: int) -> _Text:
    return text if text.num_tokens <= max_tokens else _safe_text(template, text.text, max_tokens)


def _messages(form: Form, task: Task, contents: Contents, template: ChatTemplate) -> tuple[Message, ...]:
    """Return the messages of a prompt, in roles that the generator's template accepts.

    Texts without a control token may form one together, so the rendered messages are checked again.
    """
    messages = form.render(task, contents)
    if not template.has_system:
        messages = merged_system(messages)
    # A turn that is one text has been checked with it.
    checked = {contents.query, *(text for each in contents.examples for text in (each.input, each.output))}
    return tuple(
        message if message.content in checked else replace(message, content=_harmless(template, message.content))
        for message in messages
    )


@lru_cache(maxsize=1024)
def _harmless(template: ChatTemplate, text: str) -> str:
    return harmless(text, template.tokenizer, template.control_pattern)


@lru_cache(maxsize=8192)
def _safe_text(template: ChatTemplate, text: str, max_tokens: int) -> _Text:
    """Return `text`, cut to `max_tokens`, its control tokens neutralized, so that no record can open a turn.

    Of a conversation the newest messages are kept, of any other text, and of a message that is too long by itself, the
    beginning.
    """
    if is_conversation(text):
        newest = newest_that_fit(text, lambda part: _count_tokens(template, _harmless(template, part)), max_tokens)
        text = newest or message_texts(text)[-1]
    text = text[: max_tokens * MAX_CHARACTERS_PER_TOKEN]
    if not getattr(template.tokenizer, "is_fast", False):
        return _cut_by_counting(template, _harmless(template, text), max_tokens)
    text = defuse(text, template.control_pattern)
    encoded = template.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if not control_ids(template.tokenizer).isdisjoint(encoded["input_ids"]):
        text = _harmless(template, text)
        encoded = template.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = encoded["offset_mapping"]
    if len(ends) <= max_tokens:
        return _Text(text=text, num_tokens=len(ends))
    end = ends[max_tokens - 1][1] if max_tokens else 0
    # A character may be several tokens that share its offsets; it is kept whole.
    return _Text(text=text[:end], num_tokens=sum(1 for _, token_end in ends if token_end <= end))


def _cut_by_counting(template: ChatTemplate, text: str, max_tokens: int) -> _Text:
    """Return the longest beginning of `text` of at most `max_tokens`, by a tokenizer that does not tell positions."""
    excess = bisect_right(range(1, len(text) + 1), max_tokens, key=lambda end: _count_tokens(template, text[:end]))
    return _Text(text=text[:excess], num_tokens=_count_tokens(template, text[:excess]))


@lru_cache(maxsize=1024)
def _frame_tokens(template: ChatTemplate, task: Task, form: Form, num_examples: int, has_profile: bool) -> int:
    """Return the length of a prompt's fixed part: the task's own texts and the chat template around all others."""
    example = Example(input="x" if form.shows_inputs else "", output="x")
    contents = Contents(examples=(example,) * num_examples, query="x", profile="x" if has_profile else "")
    num_texts = num_examples * (1 + form.shows_inputs) + 1 + has_profile
    messages = _messages(form, task, contents, template)
    return _length(messages, template) - num_texts * _count_tokens(template, "x")


def _length(messages: Sequence[Message], template: ChatTemplate) -> int:
    return _count_tokens(template, template.render(messages))


def _count_tokens(template: ChatTemplate, text: str) -> int:
    return len(template.tokenizer(text, add_special_tokens=False)["input_ids"])
