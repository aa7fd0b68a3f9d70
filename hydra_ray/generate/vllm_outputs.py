"""Outputs of vLLM as generations: the answer without the thought before it, and its log-probabilities."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra_ray.generate.replies import is_log_probability
from hydra_ray.generate.thoughts import Split, answer_token, has_marks, split_thought, thought_length
from hydra_ray.rows import Generation, Token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm.outputs import CompletionOutput


def special_marks(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return a tokenizer's control tokens if some of them mark thoughts, as in gpt-oss and Mistral's models; then they
    must not be left out of generated texts. Otherwise none."""
    special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return special if any(map(has_marks, special)) else ()


def read_output(
    output: "CompletionOutput",
    *,
    is_opened: bool,
    is_constrained: bool,
    is_thinking: bool,
    has_first_tokens: bool,
    special_tokens: Sequence[str] = (),
) -> Generation:
    """Return the generation that an output of vLLM is.

    Args:
        is_opened: whether the prompt ends inside a thought.
        is_constrained: whether only choices could be generated, so that there is no thought.
        is_thinking: whether the model is known to think: then a text that was cut before any mark is a thought.
        has_first_tokens: whether the most likely first tokens were asked for.
        special_tokens: control tokens that the text may contain.
    """
    text, num_tokens, finish_reason = output.text, len(output.token_ids), output.finish_reason or ""
    split = Split(thought="", answer=text, start=0)
    if not is_constrained:
        split = split_thought(text, is_opened=is_opened)
        if is_thinking and finish_reason == "length" and not split.has_thought:
            split = Split(thought=text, answer="", start=len(text), is_finished=False)
    first, log_probability = 0, output.cumulative_logprob
    if split.has_thought:
        tokens = _generated(output)
        first = answer_token([token for token, _ in tokens], split.answer, is_opened=is_opened)
        log_probability = None if first is None else sum(each for _, each in tokens[first:])
    answer = split.answer
    for token in special_tokens:
        answer = answer.replace(token, "")
    return Generation(
        text=answer,
        num_tokens=num_tokens,
        finish_reason=finish_reason,
        log_probability=log_probability if is_log_probability(log_probability) else None,
        first_tokens=_top_tokens(output, first) if has_first_tokens and first is not None else (),
        thought_tokens=thought_length(num_tokens, first or 0, split.thought, answer) if split.has_thought else 0,
    )


def _top_tokens(output: "CompletionOutput", place: int) -> tuple[Token, ...]:
    """Return the most likely tokens at a place; vLLM reports them before any constraint."""
    if not output.logprobs or place >= len(output.logprobs):
        return ()
    return tuple(
        Token(text=token.decoded_token or "", log_probability=min(token.logprob, 0.0))
        for token in output.logprobs[place].values()
        if is_log_probability(token.logprob)
    )


def _generated(output: "CompletionOutput") -> list[tuple[str, float]]:
    """Return the texts of the generated tokens and their log-probabilities."""
    reported = zip(output.logprobs or (), output.token_ids, strict=False)
    tokens = [each[token_id] for each, token_id in reported if each is not None]
    return [(token.decoded_token or "", token.logprob) for token in tokens]
