"""Answers of thinking models, from an endpoint's reply to the answer's row."""

from typing import Any

import pytest
from builders import run_config
from fault_server import THOUGHT, completion_of, cut_while_thinking, thinking
from reply_bodies import body_of, with_tokens

from hydra_ray.config import GeneratorConfig
from hydra_ray.errors import ConfigError
from hydra_ray.generate.costs import answer_counters
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.failures import TRANSIENT, FailureKind, count_kinds, failures_of
from hydra_ray.generate.parsing import UNFINISHED_THOUGHT, parse_answer, text_error
from hydra_ray.generate.prompts import count_prompt_tokens, fit_messages, profile_messages
from hydra_ray.generate.replies import read_answers
from hydra_ray.generate.requests import make_request
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Generation, Message, Record

TASK = TASKS["planted"]
LABEL, OTHER = TASK.labels[:2]
THOUGHT_OF = f"Is it {OTHER}? "
FINAL = "assistant<|channel|>final<|message|>"


def generation_of(message: dict[str, Any], finish_reason: str = "stop", **read: Any) -> Generation:
    body = body_of(message)
    body["choices"][0]["finish_reason"] = finish_reason
    (generation,) = read_answers(body, 1, 0, **read).generations
    return generation


def failure_kinds(generation: Generation) -> list[str]:
    completion = Completion(request_id="r", user_id="u", prompt_tokens=1, generations=(generation,), error=None)
    return [each.kind for each in failures_of([completion], lambda each: parse_answer(TASK, each).error)]


@pytest.mark.parametrize(
    "message",
    [
        {"content": f"<think>\n{THOUGHT_OF}\n</think>\n\n{LABEL}"},
        {"content": f"{THOUGHT_OF}\n</think>\n\n{LABEL}"},
        {"content": LABEL, "reasoning_content": THOUGHT_OF},
        {"content": LABEL, "reasoning": THOUGHT_OF},
        {"content": f"\n\n{LABEL}", "reasoning_content": THOUGHT_OF},
        {"content": [{"type": "thinking", "thinking": THOUGHT_OF}, {"type": "text", "text": LABEL}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT_OF}]}, LABEL]},
        {"content": [{"type": "reasoning", "summary": [{"text": THOUGHT_OF}]}, {"type": "text", "text": LABEL}]},
        {"content": f"<|channel|>analysis<|message|>{THOUGHT_OF}<|end|><|start|>{FINAL}{LABEL}"},
        {"content": f"[THINK]{THOUGHT_OF}[/THINK]{LABEL}"},
    ],
)  # fmt: skip
def test_an_answer_after_a_thought_is_the_text_after_it_and_the_thought_is_counted(message: dict[str, Any]):
    generation = generation_of(message)
    answer = parse_answer(TASK, generation)
    assert (answer.value, answer.is_exact) == (LABEL, True)
    assert 0 < generation.thought_tokens < generation.num_tokens == 8
    assert answer.num_tokens == 8 - generation.thought_tokens
    assert failure_kinds(generation) == []


@pytest.mark.parametrize("finish_reason", ["length", "stop"])
@pytest.mark.parametrize(
    "message",
    [
        {"content": f"<think>\n{THOUGHT_OF}"},
        {"content": None, "reasoning_content": THOUGHT_OF},
        {"content": "", "reasoning": THOUGHT_OF},
        {"content": " \n", "reasoning_content": THOUGHT_OF},
        {"content": [{"type": "thinking", "thinking": THOUGHT_OF}]},
        {"content": f"<think>{THOUGHT_OF}</think>"},
        {"content": f"<|channel|>analysis<|message|>{THOUGHT_OF}"},
        {"content": f"[THINK]{THOUGHT_OF}"},
    ],
)
def test_a_thought_without_an_answer_is_a_failure_of_its_own_kind(message: dict[str, Any], finish_reason: str):
    generation = generation_of(message, finish_reason)
    assert failure_kinds(generation) == [FailureKind.UNFINISHED_THOUGHT]
    error = parse_answer(TASK, generation).error
    assert error is not None
    assert "generator.thinking_tokens" in error
    assert "generator.chat_template_kwargs" in error
    assert OTHER not in error


def test_an_unfinished_thought_is_kept_and_counted_by_its_name():
    assert FailureKind.UNFINISHED_THOUGHT not in TRANSIENT
    completion = Completion(
        request_id="r", user_id="u", prompt_tokens=1, generations=(generation_of({"content": "<think>a"}),), error=None
    )
    counts = count_kinds(failures_of([completion], lambda each: parse_answer(TASK, each).error))
    assert counts == {"failed.unfinished_thought": 1}


def test_hidden_thoughts_that_only_usage_tells_of_are_unfinished_too():
    usage = {"prompt_tokens": 9, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 8}}
    (generation,) = read_answers(body_of({"content": ""}, usage=usage), 1, 0).generations
    assert failure_kinds(generation) == [FailureKind.UNFINISHED_THOUGHT]


def test_a_cut_text_without_marks_is_a_thought_only_where_the_model_thinks():
    message = {"content": f"The person may like {OTHER}"}
    assert failure_kinds(generation_of(message, "length", is_thinking=True)) == [FailureKind.UNFINISHED_THOUGHT]
    assert failure_kinds(generation_of(message, "stop", is_thinking=True)) == []
    assert failure_kinds(generation_of(message, "length")) == []


def test_a_filtered_thought_is_filtered():
    assert failure_kinds(generation_of({"content": "<think>a"}, "content_filter")) == [FailureKind.CONTENT_FILTER]


def test_first_tokens_are_those_after_the_thought():
    tokens = ["<think>", OTHER, "</think>", "\n\n", LABEL]
    top = [{"token": LABEL, "logprob": -0.5}]
    body = with_tokens(body_of({"content": "".join(tokens)}), *tokens, top=[{"token": OTHER, "logprob": 0.0}])
    body["choices"][0]["logprobs"]["content"][4]["top_logprobs"] = top
    (generation,) = read_answers(body, 1, 20).generations
    assert [(each.text, each.log_probability) for each in generation.first_tokens] == [(LABEL, -0.5)]
    assert (generation.log_probability, generation.thought_tokens, generation.num_tokens) == (-0.25, 4, 8)
    assert parse_answer(TASK, generation).label_probabilities[0] == pytest.approx(0.6065, abs=1e-4)


def test_first_tokens_are_unknown_where_the_answers_place_among_the_tokens_is():
    tokens = ["something", " else"]
    body = with_tokens(body_of({"content": f"<think>a</think>{LABEL}"}), *tokens)
    (generation,) = read_answers(body, 1, 20).generations
    assert (generation.first_tokens, generation.log_probability) == ((), None)
    assert parse_answer(TASK, generation).label_probabilities == ()


def test_tokens_of_a_thought_in_a_field_of_its_own_are_passed_over():
    tokens = [OTHER, "</think>", "\n\n", LABEL]
    for own in (tokens, [LABEL]):
        body = with_tokens(body_of({"content": LABEL, "reasoning_content": OTHER}), *own)
        assert read_answers(body, 1, 20).generations[0].log_probability == -0.25


def test_room_for_thoughts_is_added_to_each_request_and_taken_from_its_prompt():
    plain = GeneratorConfig(engine="fake", model="m", max_model_tokens=800)
    roomy = plain.model_copy(update={"thinking_tokens": 400})
    requests = [
        make_request(user_id="u", messages=(Message(role="user", content="x"),), max_tokens=8, config=config)
        for config in (plain, roomy)
    ]
    assert [each.max_tokens for each in requests] == [8, 408]
    assert requests[0].request_id != requests[1].request_id
    records = [Record(record_id=str(place), input="a story of rain " * 5, output="rain") for place in range(30)]
    tokenizer = fake_tokenizer()
    for config, room in ((plain, 800), (roomy, 400)):
        for messages in (
            fit_messages(TASK, records, "a story", tokenizer, config),
            profile_messages(TASK, records, tokenizer, config),
        ):
            assert room / 3 < count_prompt_tokens(messages, tokenizer) <= room
    with pytest.raises(ConfigError, match=r"generator.thinking_tokens=796"):
        fit_messages(TASK, [], "x", tokenizer, roomy.model_copy(update={"thinking_tokens": 796}))


def test_thoughts_are_counted_and_paid_for():
    body = thinking(completion_of({"model": "m", "max_tokens": 12, "n": 3, "temperature": 1.0, "messages": [
        {"role": "user", "content": "a story of war and peace"}]}))  # fmt: skip
    answered = read_answers(body, 3, 0)
    assert all(THOUGHT[:10] not in each.text for each in answered.generations)
    completion = Completion(request_id="r", user_id="u", prompt_tokens=5, generations=answered.generations, error=None)
    api = run_config(
        generator={"engine": "openai", "api": {"base_url": "http://h/v1", "model": "m", "generated_price": 1e6}}
    ).generator.api
    counters = answer_counters([completion], [completion], api)
    assert counters["thoughts"] == 3
    assert 3 <= counters["thought_tokens"] < counters["generated_tokens"]
    assert counters["cost"] == counters["generated_tokens"] == body["usage"]["completion_tokens"]
    plain = answer_counters([], [], None)
    assert not {"thoughts", "thought_tokens"} & set(plain)


def test_thoughts_that_are_cut_are_no_answers_in_any_form():
    body = cut_while_thinking(completion_of({"model": "m", "max_tokens": 12, "n": 2, "temperature": 1.0, "messages": [
        {"role": "user", "content": "a story"}]}))  # fmt: skip
    for generation in read_answers(body, 2, 0).generations:
        assert failure_kinds(generation) == [FailureKind.UNFINISHED_THOUGHT]


CUT_THOUGHTS = [
    "Okay, so I need to figure out which tag fits. It could be {}, since",
    "Okay, the user wants a tag for this. {} seems right, but",
    "The user asks for one of these. Maybe {}",
    "We need to choose a label: {} or",
    "Hmm, let me think. {}?",
    "Alright, let's see. It is {}",
    "\u597d\u7684\uff0c\u7528\u6237\u8981\u4e00\u4e2a\u6807\u7b7e\u3002 {}",
]


@pytest.mark.parametrize("text", CUT_THOUGHTS)
def test_a_cut_text_that_speaks_of_its_task_names_no_label(text: str):
    body = with_tokens(body_of({"content": text.format(OTHER)}), "Okay", top=[{"token": OTHER[:1], "logprob": -1.0}])
    body["choices"][0]["finish_reason"] = "length"
    (generation,) = read_answers(body, 1, 20).generations
    assert failure_kinds(generation) == [FailureKind.UNFINISHED_THOUGHT]
    assert parse_answer(TASK, generation).label_probabilities == ()
    assert failure_kinds(generation_of({"content": text.format(OTHER)}, "stop")) == []


@pytest.mark.parametrize(
    "text", [f"The tag that fits best is {OTHER}, because the", f"So {OTHER}, as", f"Well, it is {OTHER} and", OTHER]
)
def test_an_ordinary_answer_that_was_cut_names_its_label(text: str):
    assert parse_answer(TASK, generation_of({"content": text}, "length")).value == OTHER


def test_of_a_cut_text_only_what_speaks_of_the_user_is_a_thought():
    mail, thought = "I need to tell you that", "Okay, the user wants a title about rain. Let me"
    assert text_error(generation_of({"content": mail}, "length")) is None
    assert text_error(generation_of({"content": thought}, "length")) == UNFINISHED_THOUGHT
    assert text_error(generation_of({"content": thought}, "stop")) is None
