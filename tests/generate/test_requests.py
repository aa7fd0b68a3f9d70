from dataclasses import replace

import pytest

from hydra_ray.config import GeneratorConfig
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.requests import NUM_TOP_TOKENS, ask, make_request, parse_completion
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Generation, Message, Record, Request

CONFIG = GeneratorConfig(engine="fake", model="fake", max_model_tokens=512, max_text_tokens=64)
RECORDS = tuple(Record(record_id=str(n), input=f"a story number {n}", output="comedy") for n in range(3))


def asked(task: str = "planted", config: GeneratorConfig = CONFIG, **changes) -> Request:
    usual = {"user_id": "u", "examples": RECORDS[:2], "query_input": "a story of war"}
    return ask(**{**usual, **changes}, task=TASKS[task], tokenizer=fake_tokenizer(), config=config)


def changed(**settings) -> GeneratorConfig:
    return CONFIG.model_copy(update=settings)


def test_equal_questions_are_one_request_whatever_the_records_are_called():
    renamed = tuple(replace(record, record_id=f"another {record.record_id}", date=7) for record in RECORDS[:2])
    assert asked() == asked(examples=renamed)


@pytest.mark.parametrize(
    "other",
    [
        asked(user_id="v"),
        asked(query_input="a story of peace"),
        asked(examples=()),
        asked(examples=RECORDS[1::-1]),
        asked(profile="Likes war."),
        asked(temperature=0.5),
        asked(temperature=1.0),
        asked(temperature=1.0, num_samples=2),
        asked("LaMP_2M"),
        asked(config=changed(seed=1)),
        asked(config=changed(is_constrained=False)),
        asked(config=changed(prompt_form="sentence")),
    ],
)
def test_a_request_that_differs_in_anything_has_another_name_and_other_chance(other: Request):
    assert other.request_id != asked().request_id
    assert other.seed != asked().seed


def test_where_and_how_a_generator_runs_does_not_name_a_request():
    assert asked(config=changed(model="another", dtype="float32")) == asked()


def test_names_outlive_the_process():
    request = make_request(user_id="u", messages=(Message(role="user", content="ä?"),), max_tokens=8, config=CONFIG)
    assert request.request_id == "a4b5070f4517457b4fefdbec8b58f713"


def test_the_likely_first_tokens_are_asked_for_where_they_can_tell_labels_apart():
    assert asked().num_top_tokens == NUM_TOP_TOKENS
    assert asked(temperature=1.0).num_top_tokens == asked("LaMP_4").num_top_tokens == 0


def test_a_failed_request_is_as_many_failed_answers_as_were_wanted():
    failed = Completion(request_id="r", user_id="u", prompt_tokens=0, generations=(), error="too long")
    answers = parse_completion(failed, 3, TASKS["planted"])
    assert [(answer.value, answer.error) for answer in answers] == [(None, "too long")] * 3


def test_each_generation_is_an_answer_of_its_own():
    texts = ("comedy", "no idea", "Romance.")
    generations = tuple(Generation(text=text, num_tokens=2, finish_reason="stop") for text in texts)
    done = Completion(request_id="r", user_id="u", prompt_tokens=9, generations=generations, error=None)
    answers = parse_completion(done, 3, TASKS["planted"])
    assert [answer.value for answer in answers] == ["comedy", None, "romance"]
    assert [answer.text for answer in answers] == list(texts)
