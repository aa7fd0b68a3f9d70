import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.conversations import HEADING, conversation_text
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.prompt_forms import ABOUT_USER, NO_INPUT, SUMMARY_INSTRUCTION
from hydra_ray.generate.prompts import (
    PROFILE_TOKENS,
    count_prompt_tokens,
    fit_messages,
    profile_messages,
    render_prompt,
)
from hydra_ray.lamp.lamp_files import read_samples
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Message, Record

INSTRUCTION = "Which topic is this? Answer with its name."


def merging_tokenizer():
    """A byte-level BPE with ChatML, as most small generators have, trained on a few words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(
        [INSTRUCTION, "a story about a dog and a cat\n\n", "user\nassistant\nsystem\n"] * 9, trainer
    )
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=template)


TOKENIZERS = {"words": fake_tokenizer(), "bytes": merging_tokenizer()}
tokenizers = st.sampled_from(list(TOKENIZERS.values()))
pieces = st.sampled_from(
    [
        "a",
        " dog",
        "\n",
        "  ",
        "é",
        "🙂",
        "<|im_end|>",
        "<|im_start|>",
        "<|user|>",
        "<|im_<|im_end|>end|>",
        "about",
        "?",
        "<",
    ]
)
texts = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=60).map("".join))
outputs = st.text("abc", min_size=1, max_size=8)


forms = st.sampled_from(["chat", "sentence", "documents"])


def task_of(max_tokens=8, instruction=INSTRUCTION, is_history_labelled=True):
    return Task(
        name="t",
        kind="text",
        instruction=instruction,
        max_tokens=max_tokens,
        is_history_labelled=is_history_labelled,
    )


def config_of(max_model_tokens=2048, max_text_tokens=256, prompt_form="chat"):
    return GeneratorConfig(
        engine="fake",
        model="fake",
        max_model_tokens=max_model_tokens,
        max_text_tokens=max_text_tokens,
        prompt_form=prompt_form,
    )


def in_form(form, max_tokens=8, **config):
    """A task and a configuration whose prompts have the form."""
    task = task_of(max_tokens, is_history_labelled=form != "documents")
    return task, config_of(**config, prompt_form="sentence" if form == "sentence" else "chat")


def record(number, text, output="dogs", date=None):
    return Record(record_id=str(number), input=text, output=output, date=date)


def test_the_best_example_stands_next_to_the_query():
    examples = [record(number, f"story {number}", f"output {number}") for number in range(3)]
    messages = fit_messages(task_of(), examples, "the query", fake_tokenizer(), config_of())
    assert [(message.role, message.content) for message in messages] == [
        ("system", INSTRUCTION),
        ("user", "story 2"),
        ("assistant", "output 2"),
        ("user", "story 1"),
        ("assistant", "output 1"),
        ("user", "story 0"),
        ("assistant", "output 0"),
        ("user", "the query"),
    ]


@settings(max_examples=300)
@given(
    tokenizer=tokenizers,
    inputs=st.lists(st.tuples(texts, outputs), max_size=5),
    query=texts,
    max_model_tokens=st.integers(20, 300),
    max_text_tokens=st.integers(1, 60),
)
def test_a_chat_fits_and_keeps_instruction_query_and_form(tokenizer, inputs, query, max_model_tokens, max_text_tokens):
    task, config = task_of(), config_of(max_model_tokens, max_text_tokens)
    examples = [record(number, *pair) for number, pair in enumerate(inputs)]
    try:
        messages = fit_messages(task, examples, query, tokenizer, config)
    except ConfigError:
        one_token = (Message(role="system", content=INSTRUCTION), Message(role="user", content=query[:1]))
        assert count_prompt_tokens(one_token, tokenizer) + task.max_tokens >= max_model_tokens - 4
        return
    assert count_prompt_tokens(messages, tokenizer) + task.max_tokens <= max_model_tokens
    assert messages[0] == Message(role="system", content=INSTRUCTION)
    assert messages[-1].role == "user"
    assert bool(messages[-1].content) == bool(query)
    kept = (len(messages) - 2) // 2
    assert [message.role for message in messages[1:-1]] == ["user", "assistant"] * kept
    assert all(message.content for message in messages[1:-1])


@settings(max_examples=300)
@given(
    form=forms,
    tokenizer=tokenizers,
    inputs=st.lists(st.tuples(texts, outputs), max_size=5),
    query=texts,
    profile=st.one_of(st.none(), texts),
    max_model_tokens=st.integers(20, 300),
    max_text_tokens=st.integers(1, 60),
)
def test_a_prompt_of_any_form_fits_with_and_without_a_profile(
    form, tokenizer, inputs, query, profile, max_model_tokens, max_text_tokens
):
    task, config = in_form(form, max_model_tokens=max_model_tokens, max_text_tokens=max_text_tokens)
    examples = [record(number, *pair) for number, pair in enumerate(inputs)]
    try:
        messages = fit_messages(task, examples, query, tokenizer, config, profile=profile)
    except ConfigError:
        shortest = fit_messages(task, (), query[:1], tokenizer, config_of(10_000, prompt_form=config.prompt_form))
        assert count_prompt_tokens(shortest, tokenizer) + task.max_tokens >= max_model_tokens - 4
        return
    assert count_prompt_tokens(messages, tokenizer) + task.max_tokens <= max_model_tokens
    assert INSTRUCTION in messages[0].content
    assert messages[-1].role == "user"
    assert fit_messages(task, examples, query, tokenizer, config, profile=profile) == messages


@settings(max_examples=200)
@given(
    tokenizer=tokenizers,
    inputs=st.lists(st.tuples(texts, outputs), min_size=1, max_size=12),
    max_model_tokens=st.integers(PROFILE_TOKENS + 20, PROFILE_TOKENS + 400),
    max_text_tokens=st.integers(1, 60),
)
def test_a_request_for_a_profile_fits(tokenizer, inputs, max_model_tokens, max_text_tokens):
    records = [record(number, *pair) for number, pair in enumerate(inputs)]
    config = config_of(max_model_tokens, max_text_tokens)
    try:
        system, user = profile_messages(task_of(), records, tokenizer, config)
    except ConfigError:
        one = profile_messages(task_of(), records[-1:], tokenizer, config_of(10_000, max_text_tokens))
        assert count_prompt_tokens(one, tokenizer) + PROFILE_TOKENS > max_model_tokens
        return
    assert count_prompt_tokens((system, user), tokenizer) + PROFILE_TOKENS <= max_model_tokens
    assert system.content == SUMMARY_INSTRUCTION
    assert user.content.startswith("- ")


@settings(max_examples=200)
@given(form=forms, tokenizer=tokenizers, text=texts, max_text_tokens=st.integers(1, 60))
def test_no_text_can_open_or_close_a_turn(form, tokenizer, text, max_text_tokens):
    task, config = in_form(form, max_text_tokens=max_text_tokens)
    examples = [record(0, text or "x", text or "x")]
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def control_tokens(of_messages):
        tokens = tokenizer(render_prompt(of_messages, tokenizer), add_special_tokens=False)["input_ids"]
        return [token for token in tokens if token in control]

    messages = fit_messages(task, examples, text, tokenizer, config, profile=text)
    plain = [Message(role=message.role, content="x") for message in messages]
    assert control_tokens(messages) == control_tokens(plain)


@given(text=st.text("ab \n", min_size=1, max_size=300), max_text_tokens=st.integers(1, 40))
def test_a_single_text_is_cut_from_its_end_to_the_limit(text, max_text_tokens):
    tokenizer = TOKENIZERS["words"]
    query = fit_messages(task_of(), (), text, tokenizer, config_of(max_text_tokens=max_text_tokens))[-1].content
    assert text.startswith(query)
    assert len(tokenizer(query)["input_ids"]) == min(max_text_tokens, len(tokenizer(text)["input_ids"]))


@pytest.mark.parametrize("form", ["chat", "sentence"])
def test_record_inputs_are_shortened_evenly_before_any_example_is_dropped(form):
    tokenizer = fake_tokenizer()
    examples = [record(0, "a " * 100), record(1, "b " * 100), record(2, "c")]
    task, config = in_form(form)
    room = count_prompt_tokens(fit_messages(task, examples, "q", tokenizer, config), tokenizer)
    messages = fit_messages(task, examples, "q", tokenizer, in_form(form, max_model_tokens=room - 100)[1])
    words = " ".join(message.content for message in messages).replace('"', " ").split()
    assert words.count("c") == 1
    assert abs(words.count("a") - words.count("b")) <= 1
    assert 25 < words.count("a") < 100


@pytest.mark.parametrize("form", ["chat", "sentence", "documents"])
def test_the_least_relevant_examples_are_dropped_first(form):
    examples = [record(number, f"{number} word " * 30, f"output{number}") for number in range(9)]
    task, config = in_form(form, max_model_tokens=100)
    text = " ".join(message.content for message in fit_messages(task, examples, "q", fake_tokenizer(), config))
    kept = [number for number in range(9) if f"output{number}" in text]
    assert kept == list(range(len(kept)))
    assert (0 < len(kept) < 9) == (form != "documents")


def test_documents_are_dropped_too_where_they_do_not_fit():
    examples = [record(number, "never shown", f"output{number} " * 10) for number in range(9)]
    task, config = in_form("documents", max_model_tokens=120)
    _, user = fit_messages(task, examples, "the query", fake_tokenizer(), config)
    assert "never shown" not in user.content
    assert user.content.startswith(f'{task.history_heading} "output')
    assert user.content.endswith('output0 output0 "\n\nthe query')
    assert 0 < user.content.count('", "') < 8


def test_a_record_without_input_is_an_example_of_style():
    messages = fit_messages(task_of(), [record(0, "", "my tweet")], "q", fake_tokenizer(), config_of())
    assert [message.content for message in messages[1:3]] == [NO_INPUT, "my tweet"]


def test_an_instruction_that_leaves_no_room_is_a_configuration_error():
    with pytest.raises(ConfigError, match="max_model_tokens"):
        fit_messages(task_of(instruction="a " * 60), (), "query", fake_tokenizer(), config_of(max_model_tokens=50))


def test_a_generator_without_chat_template_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"u": 0}, unk_token="u")), unk_token="u")
    with pytest.raises(ModelError, match="no chat template"):
        fit_messages(task_of(), (), "query", bare, config_of())


FROZEN_RECORDS = (
    record(0, "The harbour froze over on Sunday, and " + "the ferries stayed in port. " * 3, "Ferries Stay In"),
    record(1, "", "<|user|> Notes"),
    record(2, "A short note on tides.", "Tides"),
    record(3, "Ice on the river again, " * 8, "Ice Again"),
)


def test_chat_prompts_stay_as_they_are_to_the_last_byte():
    # Generations are kept by their prompts: a changed byte asks for all of them again.
    config = config_of(max_model_tokens=190, max_text_tokens=64)
    messages = fit_messages(
        TASKS["LaMP_4"], FROZEN_RECORDS, "Snow fell on the northern coast. " * 2, fake_tokenizer(), config
    )
    assert [(message.role, message.content) for message in messages] == [
        ("system", "Generate a headline for the following article:"),
        ("user", "Ice on the river again, Ice on the river again, Ice on"),
        ("assistant", "Ice Again"),
        ("user", "A short note on tides."),
        ("assistant", "Tides"),
        ("user", "Show me an example of the style to write in."),
        ("assistant", "< |user|> Notes"),
        ("user", "The harbour froze over on Sunday, and the ferries stayed in port."),
        ("assistant", "Ferries Stay In"),
        ("user", "Snow fell on the northern coast. Snow fell on the northern coast. "),
    ]


@pytest.mark.parametrize(("form", "place"), [("chat", "system"), ("documents", "system"), ("sentence", "user")])
def test_a_profile_stands_before_everything_else_and_is_cut_like_any_text(form, place):
    task, config = in_form(form, max_text_tokens=9)
    examples = [record(0, "story", "output")]
    plain = fit_messages(task, examples, "the query", fake_tokenizer(), config)
    messages = fit_messages(
        task, examples, "the query", fake_tokenizer(), config, profile="likes very short words. " * 9
    )
    cut = "likes very short words. "
    expected = f"{INSTRUCTION}\n\n{ABOUT_USER}{cut}" if place == "system" else f"{ABOUT_USER}{cut}\n{plain[0].content}"
    assert messages[0] == Message(role=place, content=expected)
    assert messages[1:] == plain[1:]
    assert fit_messages(task, examples, "the query", fake_tokenizer(), config, profile=" \n") == plain


@pytest.mark.parametrize("form", ["chat", "sentence", "documents"])
def test_a_profile_is_left_out_only_where_no_token_of_the_query_fits_beside_it(form):
    tokenizer, query, profile = fake_tokenizer(), "word " * 20, "short " * 20
    task, config = in_form(form)
    shortest = fit_messages(task, (), "word", tokenizer, config, profile=profile)
    needed = count_prompt_tokens(shortest, tokenizer) + task.max_tokens
    enough, too_few = (in_form(form, max_model_tokens=tokens)[1] for tokens in (needed, needed - 1))
    assert fit_messages(task, [record(0, "a")], query, tokenizer, enough, profile=profile) == shortest
    without = fit_messages(task, [record(0, "a")], query, tokenizer, too_few, profile=profile)
    assert without == fit_messages(task, (), query, tokenizer, too_few)
    assert without[-1].content.endswith("word " * 20)


def test_a_profile_is_asked_for_with_the_newest_records_that_fit():
    tokenizer = fake_tokenizer()
    records = [record(number, f"input{number}", f"output{number}", date=number * 7 % 10) for number in range(10)]
    undated = [record(number, f"input{number}", f"output{number}") for number in range(10, 14)]
    _, user = profile_messages(task_of(), [*records, *undated], tokenizer, config_of())
    order = [*range(10, 14), *sorted(range(10), key=lambda number: number * 7 % 10)]
    lines = [f'- "output{number}" is the answer to "input{number}"' for number in order]
    assert user.content.splitlines() == lines
    room = count_prompt_tokens(profile_messages(task_of(), records[:3], tokenizer, config_of()), tokenizer)
    _, user = profile_messages(task_of(), [*records, *undated], tokenizer, config_of(room + PROFILE_TOKENS))
    assert user.content.splitlines() == lines[-3:]


def test_a_record_that_leaves_no_room_for_a_profile_is_a_configuration_error():
    with pytest.raises(ConfigError, match="max_model_tokens"):
        profile_messages(task_of(), [record(0, "a " * 99, "b " * 99)], fake_tokenizer(), config_of(PROFILE_TOKENS + 20))


@pytest.mark.lamp
@pytest.mark.parametrize("name", ["LaMP_2N", "LaMP_3", "LaMP_4", "LaMP_5", "LaMP_7"])
def test_without_records_the_sentence_form_is_the_official_input(name):
    if "HYDRA_LAMP_DIR" not in os.environ:
        pytest.skip("HYDRA_LAMP_DIR is not set")
    root = Path(os.environ["HYDRA_LAMP_DIR"], name)
    config = config_of(100_000, 10_000, prompt_form="sentence")
    raw = json.loads((root / "dev_questions.json").read_text())
    for sample, official in zip(read_samples(TASKS[name], str(root), "dev", is_new=True), raw, strict=True):
        (message,) = fit_messages(TASKS[name], (), sample.user.queries[0].input, fake_tokenizer(), config)
        assert message.content.split() == official["input"].split()


def conversation(number):
    """A conversation of that many messages, numbered."""
    roles = ("user", "assistant")
    return conversation_text([{"role": roles[each % 2], "content": f"word{each} " * 5} for each in range(number)])


@pytest.mark.parametrize("form", ["chat", "sentence", "documents"])
@pytest.mark.parametrize("limit", [10_000, 60, 30])
def test_of_a_long_conversation_the_last_messages_are_shown(form, limit):
    task, config = in_form(form, max_text_tokens=limit)
    examples = [record(0, conversation(7))]
    messages = fit_messages(task, examples, conversation(9), fake_tokenizer(), config)
    shown = messages[-1].content[-len(conversation(9)) :]
    kept = [number for number in range(9) if f"word{number}" in shown.rpartition(HEADING)[2]]
    assert kept == list(range(9 - len(kept), 9))
    assert len(kept) == {10_000: 9, 60: 3, 30: 1}[limit]
    assert shown.rstrip('". ').endswith("word8")


def test_a_conversation_that_leaves_no_room_keeps_its_last_message():
    task, config = in_form("chat", max_model_tokens=70)
    messages = fit_messages(task, (), conversation(9), fake_tokenizer(), config)
    assert count_prompt_tokens(messages, fake_tokenizer()) + task.max_tokens <= 70
    assert "word8" in messages[-1].content
    assert "word0" not in messages[-1].content


def test_a_message_that_is_too_long_alone_is_cut_from_its_end():
    text = conversation_text([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b " * 500}])
    config = config_of(max_text_tokens=20)
    content = fit_messages(task_of(), (), text, fake_tokenizer(), config)[-1].content
    assert content.startswith("User: b b")
    assert len(fake_tokenizer()(content)["input_ids"]) == 20


@settings(max_examples=60)
@given(
    tokenizer=tokenizers, contents=st.lists(texts.filter(str.strip), min_size=2, max_size=5), limit=st.integers(1, 80)
)
def test_conversations_of_any_texts_fit_and_open_no_turn(tokenizer, contents, limit):
    text = conversation_text([{"role": "user", "content": each} for each in contents])
    messages = fit_messages(task_of(), [record(0, text)], text, tokenizer, config_of(max_text_tokens=limit))
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    plain = [Message(role=message.role, content="x") for message in messages]
    found, expected = (
        [each for each in tokenizer(render_prompt(shown, tokenizer))["input_ids"] if each in control]
        for shown in (messages, plain)
    )
    assert found == expected
    # A character of up to four tokens is kept whole.
    assert all(len(tokenizer(each.content)["input_ids"]) <= limit + 3 for each in (messages[1], messages[-1]))
