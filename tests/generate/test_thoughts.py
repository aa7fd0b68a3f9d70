import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.generate.thoughts import answer_token, has_marks, opens_thought, split_thought, thought_length

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<think>", "</think>\n<answer>"),
    ("Here is my thought process: ", "Here is my response:"),
    ("analysis", "assistantfinal"),
]
ORPHANS = PAIRS[:13]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("answer", ["Rain again", "war", "a <b> c"])
def test_what_follows_a_leading_thought_is_the_answer(opening: str, closing: str, answer: str):
    split = split_thought(f"{opening}The person likes\nwar or love.{closing}\n\n{answer}\n")
    assert (split.answer, split.has_thought, split.is_finished) == (answer, True, True)
    assert "The person likes" in split.thought


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_thought_that_was_cut_leaves_no_answer(opening: str, closing: str):
    split = split_thought(f"{opening}The answer may be war")
    assert (split.answer, split.has_thought, split.is_finished) == ("", True, False)


@pytest.mark.parametrize(("opening", "closing"), ORPHANS)
def test_a_closing_mark_alone_ends_a_thought_that_the_template_opened(opening: str, closing: str):
    assert split_thought(f"The person likes war{closing}\n\nlove").answer == "love"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " Rain ",
        "What <think> and </think> mean to models",
        "Rain. <think>Or snow?</think> Snow.",
        "analysis of a war",
        "Analysis",
        "a <b>bold</b> title",
        "[THINKING] about rain",
        "<|end|> of the day",
        "thinking: rain",
    ],
)
def test_an_answer_without_a_leading_thought_is_left_as_it_is(text: str):
    split = split_thought(text)
    assert (split.answer, split.start, split.thought, split.has_thought) == (text, 0, "", False)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think></think>\n\nRain", "Rain"),
        ("<think>a</think><think>b</think>Rain", "Rain"),
        ("<think>a <think>b</think> c</think>Rain", "Rain"),
        ("<think>a [THINK] b [/THINK] c</think>Rain", "Rain"),
        ("<think>a</think>Rain</think>", "Rain"),
        ("<think>a</think>Rain <think>or</think> snow", "Rain <think>or</think> snow"),
        ("<think>a</think>  ", ""),
        ("<THINK>a</THINK>Rain", "Rain"),
        ("<|channel|>final<|message|>Rain<|return|>", "Rain"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
         "<|start|>assistant<|channel|>final<|message|>Rain", "Rain"),
    ],
)  # fmt: skip
def test_thoughts_of_odd_forms_are_separated(text: str, answer: str):
    assert split_thought(text).answer == answer


def test_a_text_whose_prompt_opened_the_thought_begins_inside_it():
    assert split_thought("I think war", is_opened=True).is_finished is False
    assert split_thought("I think war</think>love", is_opened=True).answer == "love"


@pytest.mark.parametrize(
    ("prompt", "is_opened"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("[THINK]", True),
        ("Explain <think>: <|im_start|>assistant\n", False),
        ("", False),
    ],
)
def test_whether_a_prompt_opens_a_thought_is_seen_at_its_end(prompt: str, is_opened: bool):
    assert opens_thought(prompt) == is_opened


@pytest.mark.parametrize(
    ("tokens", "answer", "place"),
    [
        (["<think>", "\n", "war", "</think>", "\n\n", "Ra", "in"], "Rain", 5),
        (["a", "</think>", "\n\nRa", "in"], "Rain", 2),
        (["a", "</think>Ra", "in"], "Rain", None),
        (["Ra", "in"], "Rain", 0),
        ([" ", "Ra", "in"], "Rain", 1),
        (["a thought ", "apart. ", "Ra", "in", "\n"], "Rain", 2),
        (["<think>", "x", "</think>", "Ra", "in", "<|im_end|>"], "Rain", 3),
        (["Ra", "in", "<|im_end|>"], "Rain", 0),
        (["Rain", "? or ", "Rain", "<|im_end|>"], "Rain", 2),
        (["some", "thing else"], "Rain", None),
        ([], "Rain", None),
        (["<think>", "war"], "", None),
    ],
)
def test_the_first_token_of_an_answer_is_found_after_its_thought(tokens: list[str], answer: str, place: int | None):
    assert answer_token(tokens, answer) == place


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "[THINK]", "<|end|>", "assistantfinal", "a", " ", "\n", "war"]))
)
def test_any_sequence_of_marks_splits_into_parts_of_the_text(pieces: list[str]):
    text = "".join(pieces)
    split = split_thought(text)
    assert text[split.start :].startswith(split.answer)
    assert split.is_finished or not split.answer
    assert split.has_thought or split.answer == text
    place = answer_token(pieces, split.answer)
    assert place is None or pieces[place].strip()


@pytest.mark.parametrize("piece", ["</think>", "<think>", "<think>a</think>", " ", "<|channel|>final", "x "])
def test_the_work_grows_with_the_text_alone(piece: str):
    assert split_thought(piece * 100_000).start <= len(piece) * 100_000


@pytest.mark.parametrize(
    ("num_tokens", "told", "thought", "answer", "length"),
    [(20, 7, "x", "y", 7), (20, 99, "x", "y", 20), (20, 0, "xxx", "y", 15), (4, 0, "", "y", 1), (0, 0, "", "", 1)],
)
def test_a_thoughts_length_is_as_told_or_its_share(num_tokens: int, told: int, thought: str, answer: str, length: int):
    assert thought_length(num_tokens, told, thought, answer) == length


def test_control_tokens_that_mark_thoughts_are_known():
    assert all(map(has_marks, ["[THINK]", "<|channel|>", "<think>", "<|START_THINKING|>"]))
    assert not any(map(has_marks, ["<|im_end|>", "</s>", "[INST]", "<|end|>", ""]))
