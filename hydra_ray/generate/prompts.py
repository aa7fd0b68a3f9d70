"""Prompts in chat form that fit the generator: instruction, examples, query.

An example is a turn pair: a record's input as the user's turn and its output as the assistant's. The most relevant one
stands last, next to the query. Lengths are the generator's own tokens. Each text is tokenized once a process; whether
a prompt fits is mostly decided by a sum, and by rendering it only where the sum comes close to the limit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.records import Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_INPUT = "Show me an example of the style to write in."
"""The user's turn of an example whose record has an output only."""

_MIN_INPUT_TOKENS = 16
"""A record's input is not cut below this: a shorter one says too little, and the record is better dropped."""
_SLACK_TOKENS = 2
"""A message's allowance for tokens that differ between a text alone and inside the chat template."""
_MAX_ATTEMPTS = 4
"""Renderings of a prompt with the same examples; the first one nearly always fits."""
_MAX_CHARACTERS_PER_TOKEN = 50
"""Longer texts are cut by characters before they are tokenized, so that a whole book costs no more than a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A text that is safe inside a prompt, and its length in tokens."""

    text: str
    num_tokens: int


def fit_messages(
    task: Task,
    examples: Sequence[Record],
    query_input: str,
    tokenizer: "PreTrainedTokenizerBase",
    config: GeneratorConfig,
) -> tuple[Message, ...]:
    """The prompt that asks for the answer to `query_input`, short enough to leave room for task.max_tokens.

    Where the whole is too long, record inputs are cut evenly, then the least relevant examples are dropped, then the
    query is cut from its end. The instruction always stays as it is.

    Args:
        examples: records to learn from, most relevant first; they appear in reverse order.

    Raises:
        ConfigError: not even the instruction and one token of the query fit.
        ModelError: the generator has no chat template.
    """
    query = _safe_text(tokenizer, query_input, config.max_text_tokens)
    pairs = [
        (
            _safe_text(tokenizer, record.input.strip() or NO_INPUT, config.max_text_tokens),
            _safe_text(tokenizer, record.output, config.max_text_tokens),
        )
        for record in reversed(examples)
    ]
    room = config.max_model_tokens - task.max_tokens
    for num_dropped in range(len(pairs) + 1):
        messages = _fit_examples(task, pairs[num_dropped:], query, tokenizer, room)
        if messages is not None:
            return messages
    return _fit_query(task, query, tokenizer, room)


def render_prompt(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text of a prompt by the generator's chat template, up to where its answer begins.

    Raises:
        ModelError: the generator has no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"the generator {tokenizer.name_or_path} has no chat template; prompts are chats. Set a model that was "
            "tuned to follow instructions."
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def count_prompt_tokens(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> int:
    """Length of the rendered prompt in tokens."""
    return _count_tokens(tokenizer, render_prompt(messages, tokenizer))


def _fit_examples(
    task: Task,
    pairs: Sequence[tuple[_Text, _Text]],
    query: _Text,
    tokenizer: "PreTrainedTokenizerBase",
    room: int,
) -> tuple[Message, ...] | None:
    """A prompt with all of `pairs`, their inputs cut where need be; None where that is not enough."""
    inputs = [example_input for example_input, _ in pairs]
    fixed = _frame_tokens(tokenizer, task.instruction, len(pairs)) + query.num_tokens
    fixed += sum(output.num_tokens for _, output in pairs)
    needed = fixed + sum(text.num_tokens for text in inputs)
    if needed + _SLACK_TOKENS * (2 * len(pairs) + 2) <= room:
        return _messages(task, pairs, query)
    excess = 0
    for _ in range(_MAX_ATTEMPTS):
        cap = _even_cap([text.num_tokens for text in inputs], room - fixed - excess)
        if cap < _MIN_INPUT_TOKENS and any(text.num_tokens > cap for text in inputs):
            return None
        cut = [(_cut(tokenizer, each, cap), output) for each, (_, output) in zip(inputs, pairs, strict=True)]
        messages = _messages(task, cut, query)
        over = count_prompt_tokens(messages, tokenizer) - room
        if over <= 0:
            return messages
        excess += over
    return None


def _fit_query(task: Task, query: _Text, tokenizer: "PreTrainedTokenizerBase", room: int) -> tuple[Message, ...]:
    """A prompt without examples whose query is cut until it fits."""
    limit = max(1, query.num_tokens)
    while limit > 0:
        messages = _messages(task, (), _cut(tokenizer, query, limit))
        over = count_prompt_tokens(messages, tokenizer) - room
        if over <= 0:
            return messages
        limit = max(1, limit - over) if limit > 1 else 0
    raise ConfigError(
        f"the instruction of task {task.name} and its answer of up to {task.max_tokens} tokens leave no room for a "
        "query within generator.max_model_tokens: raise that, or shorten the instruction or lamp.task.max_tokens."
    )


def _messages(task: Task, pairs: Sequence[tuple[_Text, _Text]], query: _Text) -> tuple[Message, ...]:
    turns = [Message(role="system", content=task.instruction)]
    for example_input, output in pairs:
        turns.append(Message(role="user", content=example_input.text))
        turns.append(Message(role="assistant", content=output.text))
    return (*turns, Message(role="user", content=query.text))


def _even_cap(lengths: Sequence[int], total: int) -> int:
    """The largest cap for which the lengths, each cut to it, sum to at most `total`."""
    remaining = total
    for position, length in enumerate(sorted(lengths)):
        share = remaining // (len(lengths) - position)
        if length > share:
            return max(0, share)
        remaining -= length
    return max(lengths, default=0)


def _cut(tokenizer: "PreTrainedTokenizerBase", text: _Text, max_tokens: int) -> _Text:
    return text if text.num_tokens <= max_tokens else _safe_text(tokenizer, text.text, max_tokens)


@lru_cache(maxsize=8192)
def _safe_text(tokenizer: "PreTrainedTokenizerBase", text: str, max_tokens: int) -> _Text:
    """`text`, cut to `max_tokens`, with the generator's control tokens defused.

    A space after its first character turns a control token into ordinary text, so no record can open a turn.
    """
    text = text[: max_tokens * _MAX_CHARACTERS_PER_TOKEN]
    pattern = _control_tokens(tokenizer)
    if pattern is not None:
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(ends) <= max_tokens:
        return _Text(text=text, num_tokens=len(ends))
    end = ends[max_tokens - 1][1] if max_tokens else 0
    # A character may be several tokens, which then share its offsets; it is kept whole.
    return _Text(text=text[:end], num_tokens=sum(1 for _, token_end in ends if token_end <= end))


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Matches any token that means something to the generator and is not ordinary text."""
    special = {str(token) for token in tokenizer.all_special_tokens}
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    long_enough = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, long_enough))) if long_enough else None


@lru_cache(maxsize=256)
def _frame_tokens(tokenizer: "PreTrainedTokenizerBase", instruction: str, num_examples: int) -> int:
    """Length of a prompt's fixed part: the instruction and the chat template around all other texts."""
    word = _Text(text="x", num_tokens=_count_tokens(tokenizer, "x"))
    num_texts = 2 * num_examples + 1
    turns = [Message(role="system", content=instruction)]
    turns += [Message(role="assistant" if position % 2 else "user", content=word.text) for position in range(num_texts)]
    return count_prompt_tokens(turns, tokenizer) - num_texts * word.num_tokens


def _count_tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
