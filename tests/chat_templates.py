"""Chat templates of the common model families, as small as their public formats allow, each with a tokenizer."""

# ruff: noqa: E501, RUF001

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of a family mark turns. Key: name."""

    name: str
    template: str
    special: tuple[str, ...] = ()
    """Control tokens that the tokenizer calls special."""
    added: tuple[str, ...] = ()
    """Control tokens that it does not call special."""
    written: tuple[str, ...] = ()
    """Marks of a turn that are ordinary text to the tokenizer."""
    is_normalizing: bool = False
    """Whether the tokenizer looks for its control tokens after it has folded case, width and invisible characters."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Everything that marks a turn."""
        return self.special + self.added + self.written


def _each(turn: str, start: str = "", end: str = "") -> str:
    """A template that writes each message as `turn`, and `end` where the answer is to begin."""
    return (
        f"{start}{{% for message in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{end}{{% endif %}}"
    )


_NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
_FIRST_SYSTEM = "{% if message['role'] == 'system' %}<<SYS>>\n{{ message['content'] }}\n<</SYS>>\n\n"
_CHATML = _each(
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n", end="<|im_start|>assistant\n"
)

FAMILIES = {
    family.name: family
    for family in (
        Family(name="SmolLM2", template=_CHATML, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
        Family(
            name="Qwen3",
            template=_CHATML + "{# answers may hold <think> and </think> #}",
            special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"),
            added=("<think>", "</think>"),
        ),
        Family(
            name="Gemma 2",
            template=_NO_SYSTEM
            + _each(
                "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
                "{{ message['content'] | trim }}<end_of_turn>\n",
                start="<bos>",
                end="<start_of_turn>model\n",
            ),
            special=("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
        ),
        Family(
            name="Gemma 4",
            template=_each(
                "<|turn>{{ message['role'] }}\n{{ message['content'] | trim }}<turn|>\n",
                start="<bos>",
                end="<|turn>model\n",
            ),
            special=("<bos>", "<eos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>"),
        ),
        Family(
            name="Llama 3",
            template=_each(
                "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>",
                start="<|begin_of_text|>",
                end="<|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            special=(
                "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                "<|python_tag|>",
            ),
        ),
        Family(
            name="Llama 2",
            template=_each(
                _FIRST_SYSTEM + "{% elif message['role'] == 'user' %}<s>[INST] {{ message['content'] }} [/INST]"
                "{% else %} {{ message['content'] }} </s>{% endif %}"
            ),
            special=("<s>", "</s>", "<unk>"),
            written=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        ),
        Family(
            name="Mistral",
            template=_each(
                "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ message['content'] }}[/SYSTEM_PROMPT]"
                "{% elif message['role'] == 'user' %}[INST]{{ message['content'] }}[/INST]"
                "{% else %}{{ message['content'] }}</s>{% endif %}",
                start="<s>",
            ),
            special=("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
        ),
        Family(
            name="Phi-3",
            template=_each("<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n", end="<|assistant|>\n"),
            special=("<|endoftext|>", "<|end|>", "<|system|>", "<|assistant|>"),
            added=("<|user|>",),
        ),
        Family(
            name="DeepSeek",
            template=_each(
                "{% if message['role'] == 'user' %}<｜User｜>{{ message['content'] }}{% elif message['role'] == "
                "'assistant' %}<｜Assistant｜>{{ message['content'] }}<｜end▁of▁sentence｜>{% else %}"
                "{{ message['content'] }}{% endif %}",
                start="<｜begin▁of▁sentence｜>",
                end="<｜Assistant｜>",
            ),
            special=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
            added=("<｜User｜>", "<｜Assistant｜>"),
        ),
        Family(
            name="folding",
            template=_each("<TURN>{{ message['role'] }}\n{{ message['content'] }}</TURN>\n"),
            special=("<TURN>", "</TURN>"),
            is_normalizing=True,
        ),
    )
}  # fmt: skip
"""The families by name; the last one is no model's, but folds texts as much as any tokenizer does."""


@cache
def tokenizer_of(name: str) -> "PreTrainedTokenizerBase":
    """A tokenizer of a family: bytes, and the family's control tokens."""
    return make_tokenizer(FAMILIES[name])


def make_tokenizer(family: Family) -> "PreTrainedTokenizerBase":
    """A tokenizer of bytes and a family's control tokens, with its template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    if family.is_normalizing:
        steps = [normalizers.Nmt(), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        bpe.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    bpe.add_special_tokens(
        [AddedToken(token, special=True, normalized=family.is_normalizing) for token in family.special]
    )
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=family.special[-1], chat_template=family.template)


def turn_marks(name: str, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """What marks turns in the prompt of (role, content) pairs: its control tokens in their order, and how often each
    mark that is ordinary text occurs."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    messages = [{"role": role, "content": content} for role, content in turns]
    prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    control = {tokenizer.convert_tokens_to_ids(token) for token in family.special + family.added}
    tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return [token for token in tokens if token in control], [prompt.count(mark) for mark in family.written]
