import dataclasses

from answering import answered

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.generate.engines.fake import COPY_PROBABILITY
from hydra_ray.generate.engines.opening import open_engine
from hydra_ray.rows import Message, Request

LABELS = ("comedy", "romance", "fantasy")


def request(number, **changes):
    messages = (
        Message(role="system", content="Which topic?"),
        Message(role="user", content=f"story {number}"),
        Message(role="assistant", content="violence"),
        Message(role="user", content=f"query {number} about something"),
    )
    usual = Request(
        request_id=str(number),
        user_id="u",
        messages=messages,
        num_samples=1,
        temperature=0,
        max_tokens=8,
        choices=LABELS,
        num_top_tokens=0,
        seed=0,
    )
    return dataclasses.replace(usual, **changes)


def generate(requests):
    engine = open_engine(GeneratorConfig(engine="fake", model="fake"), PlacementConfig(), None)
    return {completion.request_id: completion for completion in answered(engine, requests)}


def test_the_same_request_has_the_same_answer_in_any_company():
    requests = [request(number, temperature=number % 2, num_samples=3) for number in range(20)]
    together = generate(requests)
    assert together == generate(list(reversed(requests)))
    assert together["7"] == generate([requests[7]])["7"]


def test_it_copies_the_last_example_often_and_answers_a_choice_otherwise():
    texts = [completion.generations[0].text for completion in generate([request(n) for n in range(1000)]).values()]
    assert set(texts) == {"violence", *LABELS}
    assert abs(texts.count("violence") / 1000 - COPY_PROBABILITY) < 0.05


def test_samples_differ_by_index_and_seed_and_greedy_answers_do_not():
    first, second = (generate([request(0, temperature=1, num_samples=20, seed=seed)])["0"] for seed in (0, 1))
    assert len({generation.text for generation in first.generations}) > 1
    assert first != second
    assert generate([request(0, seed=0)]) == generate([request(0, seed=1)])


def test_free_text_is_made_of_the_prompts_words():
    completions = generate([request(number, choices=()) for number in range(50)])
    for number, completion in completions.items():
        words = f"query {number} about something violence".split()
        assert completion.generations[0].text
        assert set(completion.generations[0].text.split()) <= set(words)
