"""Rule-based generator for tests of everything around a generator."""

import hashlib
import random
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.prompts import count_prompt_tokens
from hydra_ray.rows import Completion, Generation, Prompt, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COPY_PROBABILITY = 0.6
"""Probability that an answer copies the output of the example next to the query, which a good choice of records can
exploit."""
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class FakeEngine:
    """Copies the output of the last example, or else answers by a hash of the prompt, the seed and the sample."""

    max_parts = 1

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per prompt, the same for the same request."""
        completions = [complete(prompt.request) for prompt in prompts]
        keep(completions)
        return completions

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def complete(request: Request) -> Completion:
    """Return the completion of a request."""
    answers = [_answer(request, sample) for sample in range(request.num_samples)]
    return Completion(
        request_id=request.request_id,
        user_id=request.user_id,
        prompt_tokens=count_prompt_tokens(request.messages, fake_tokenizer()),
        generations=tuple(
            Generation(text=answer, num_tokens=len(answer.split()), finish_reason="stop") for answer in answers
        ),
        error=None,
    )


def _answer(request: Request, sample: int) -> str:
    drawn_by = (request.messages, (request.seed, sample) if request.temperature else None)
    rng = random.Random(hashlib.blake2b(repr(drawn_by).encode(), digest_size=8).digest())
    examples = [message.content for message in request.messages if message.role == "assistant"]
    if examples and rng.random() < COPY_PROBABILITY:
        return examples[-1]
    if request.choices:
        return rng.choice(request.choices)
    words = " ".join([request.messages[-1].content, *examples]).split()
    return " ".join(rng.sample(words, min(len(words), request.max_tokens, 8)))


@cache
def fake_tokenizer() -> "PreTrainedTokenizerBase":
    """Return a tokenizer of words and punctuation marks; it needs neither files nor torch."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = Split(Regex(r"\w+|[^\w\s]|\s+"), behavior="isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", chat_template=_CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]})
    return tokenizer
