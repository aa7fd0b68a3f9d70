import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.conversations import (
    HEADING,
    ROLES,
    conversation_text,
    is_conversation,
    last_answer,
    message_texts,
    newest_messages,
    newest_that_fit,
)

HELLO = {"role": "user", "content": "It rains."}
ANSWER = {"role": "assistant", "content": "Take an umbrella."}
QUESTION = {"role": "user", "content": "And\ntomorrow?"}

FORGING = [*"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029 a", "User: ", "Assistant: ", HEADING]
roles = st.sampled_from(sorted(ROLES))
contents = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.lists(st.sampled_from(FORGING), min_size=1).map("".join),
).filter(str.strip)
messages = st.fixed_dictionaries({"role": roles, "content": contents})


def test_a_conversation_is_a_text_with_a_line_for_each_turn():
    text = conversation_text([HELLO, ANSWER, QUESTION])
    assert text == f"{HEADING}\nUser: It rains.\nAssistant: Take an umbrella.\nUser: And\n  tomorrow?"
    assert is_conversation(text)
    assert newest_messages(text, 1) == f"{HEADING}\nUser: And\n  tomorrow?"


def test_a_single_message_of_the_user_is_a_text_like_any_other():
    assert conversation_text([QUESTION]) == "And\ntomorrow?"


@given(st.lists(messages, min_size=2, max_size=6))
def test_no_content_forges_a_message(turns):
    text = conversation_text(turns)
    found = message_texts(text)
    assert [each.partition(": ")[0] for each in found] == [ROLES[turn["role"]] for turn in turns]
    lines = [line for line in text.splitlines()[1:] if not line.startswith("  ")]
    assert len(lines) == len(turns)
    assert ["".join(each.partition(": ")[2].split()) for each in found] == [
        "".join(turn["content"].split()) for turn in turns
    ]


@given(st.lists(messages, min_size=2, max_size=6), st.integers(1, 6))
def test_the_newest_messages_are_a_conversation_too(turns, number):
    newest = newest_messages(conversation_text(turns), number)
    assert message_texts(newest) == message_texts(conversation_text(turns))[-number:]


def test_parts_of_text_are_joined_and_columns_are_read_as_rows():
    parts = [{"type": "text", "text": "It "}, {"text": "rains."}]
    assert conversation_text([{"role": "user", "content": parts}, ANSWER]) == conversation_text([HELLO, ANSWER])
    columns = {"role": ["user", "assistant"], "content": [HELLO["content"], ANSWER["content"]]}
    assert conversation_text(columns) == conversation_text([HELLO, ANSWER])


SECRET = "a private text"
WRONG = [
    ([], "an empty list"),
    ([SECRET], "message 0 is str"),
    ([HELLO, {"role": "tool", "content": SECRET}], "message 1 has another role, expected one of system, user"),
    ([{"role": SECRET, "content": "x"}], "another role"),
    ([{"content": SECRET}], "message 0 has no role"),
    ([{"role": ["user"], "content": SECRET}], "another role"),
    ([HELLO, {"role": "assistant"}], "message 1 has no content"),
    ([{"role": "assistant", "content": None}], "no content"),
    ([{"role": "user", "content": " \n"}], "no content"),
    ([{"role": "user", "content": []}], "no content"),
    ([{"role": "user", "content": 7}], "content of type int"),
    ([{"role": "user", "content": {"text": SECRET}}], "content of type dict"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}], "a part that is no text"),
    ([{"role": "user", "content": [SECRET]}], "a part that is no text"),
    ([{"role": "user", "content": "\ud83d"}], "not valid Unicode"),
    ({"role": ["user"], "content": [SECRET, SECRET]}, "an object, expected"),
    ({"text": SECRET}, "an object, expected"),
    (7, "int, expected a text or a list"),
    (None, "NoneType, expected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given_", "reason"), WRONG, ids=lambda each: json.dumps(each)[:30] if not isinstance(each, str) else ""
)
def test_what_is_no_conversation_is_refused_without_its_texts(given_, reason):
    for read in (conversation_text, last_answer):
        with pytest.raises(ValueError, match=reason) as caught:
            read(given_)
        assert SECRET not in str(caught.value)


def test_a_draft_is_the_assistants_last_message():
    assert last_answer([HELLO, ANSWER]) == ANSWER["content"]
    with pytest.raises(ValueError, match="last message is of role user"):
        last_answer([HELLO, ANSWER, QUESTION])


def test_the_longest_conversation_is_tokenized_a_few_times_only():
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"word {n}"} for n in range(5000)]
    text = conversation_text(turns)
    counted: list[int] = []

    def count_tokens(part: str) -> int:
        counted.append(len(part.split()))
        return counted[-1]

    newest = newest_that_fit(text, count_tokens, 3000)
    assert newest is not None
    assert len(newest.split()) <= 3000 < len(newest_messages(text, len(message_texts(newest)) + 1).split())
    assert len(counted) < 20
    assert newest_that_fit(text, count_tokens, 3) is None
