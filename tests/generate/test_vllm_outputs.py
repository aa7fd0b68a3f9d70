from dataclasses import dataclass, field
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hydra_ray.generate.vllm_outputs import read_output, special_marks
from hydra_ray.rows import Generation


@dataclass(frozen=True, kw_only=True)
class Reported:
    """As vLLM's Logprob."""

    decoded_token: str | None
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Output:
    """As vLLM's CompletionOutput."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = "stop"
    cumulative_logprob: float | None = -1.0
    logprobs: list[dict[int, Reported]] = field(default_factory=list)


def output_of(*tokens: str, ended_by: str = "<|im_end|>", **changes: Any) -> Output:
    """What vLLM gives for these tokens: the end of the turn is among them, and not in the text."""
    ended = [*tokens, *([ended_by] if ended_by else [])]
    reported = [
        {place: Reported(decoded_token=token, logprob=-0.5), -1: Reported(decoded_token="x", logprob=-2.0)}
        for place, token in enumerate(ended)
    ]
    usual = {"text": "".join(tokens), "token_ids": list(range(len(ended))), "logprobs": reported}
    return Output(**usual | changes)


def read(output: Output, **changes: Any) -> Generation:
    usual = {"is_opened": False, "is_constrained": False, "is_thinking": False, "has_first_tokens": True}
    return read_output(output, **usual | changes)  # type: ignore[arg-type]


def test_an_answer_without_a_thought_is_the_output_as_it_is():
    generation = read(output_of("Ra", "in", " "))
    assert (generation.text, generation.num_tokens, generation.log_probability) == ("Rain ", 4, -1.0)
    assert [each.text for each in generation.first_tokens] == ["Ra", "x"]
    assert generation.thought_tokens == 0


@pytest.mark.parametrize("is_opened", [False, True])
def test_an_answer_after_a_thought_has_its_own_log_probabilities(is_opened: bool):
    opening = () if is_opened else ("<think>",)
    tokens = (*opening, "war", "</think>", "\n\n", "Ra", "in")
    generation = read(output_of(*tokens), is_opened=is_opened)
    assert (generation.text, generation.log_probability) == ("Rain", -1.5)
    assert generation.first_tokens[0].text == "Ra"
    assert generation.thought_tokens == len(tokens) - 2


def test_a_thought_of_control_tokens_is_separated_and_none_is_left_in_the_answer():
    tokens = ("[THINK]", "war", "[/THINK]", "Rain", "<pad>")
    generation = read(output_of(*tokens), special_tokens=("[THINK]", "[/THINK]", "<pad>"))
    assert (generation.text, generation.thought_tokens) == ("Rain", 3)


@pytest.mark.parametrize(
    ("tokens", "changes"),
    [
        (("<think>", "war"), {}),
        (("war", " it is"), {"is_opened": True}),
        (("war", " it is"), {"is_thinking": True}),
    ],
)
def test_a_thought_that_was_cut_leaves_no_answer_and_no_log_probability(tokens: tuple[str, ...], changes: Any):
    generation = read(output_of(*tokens, ended_by="", finish_reason="length"), **changes)
    assert (generation.text, generation.log_probability, generation.first_tokens) == ("", None, ())
    assert generation.thought_tokens == generation.num_tokens == 2


def test_a_constrained_label_is_an_answer_even_where_the_prompt_opened_a_thought():
    generation = read(output_of("war", finish_reason="length"), is_opened=True, is_constrained=True, is_thinking=True)
    assert (generation.text, generation.thought_tokens) == ("war", 0)


@pytest.mark.parametrize(
    ("added", "is_special", "found"),
    [("[THINK]", True, True), ("<|channel|>", True, True), ("<think>", False, False), ("<|end_of_text|>", True, False)],
)
def test_control_tokens_stay_in_the_text_only_where_they_mark_thoughts(added: str, is_special: bool, found: bool):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")))
    tokenizer.add_tokens([AddedToken(added, special=is_special)], special_tokens=is_special)
    assert (added in special_marks(tokenizer)) == found


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1000.0])
def test_a_log_probability_that_is_none_is_left_out(value: float):
    reported = [{0: Reported(decoded_token="Rain", logprob=value), 1: Reported(decoded_token=None, logprob=-1.0)}]
    generation = read(output_of("Rain", cumulative_logprob=value, logprobs=reported))
    assert generation.log_probability is None
    assert [each.text for each in generation.first_tokens] == [""]
