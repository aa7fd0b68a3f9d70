import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.generate.fake_engine import fake_tokenizer
from hydra_ray.generate.prompts import NO_INPUT, count_prompt_tokens, fit_messages, render_prompt
from hydra_ray.records import Message, Record

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


def task_of(max_tokens=8, instruction=INSTRUCTION):
    return Task(name="t", kind="text", instruction=instruction, max_tokens=max_tokens)


def config_of(max_model_tokens=2048, max_text_tokens=256):
    return GeneratorConfig(
        engine="fake", model="fake", max_model_tokens=max_model_tokens, max_text_tokens=max_text_tokens
    )


def record(number, text, output="dogs"):
    return Record(record_id=str(number), input=text, output=output)


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
def test_a_prompt_fits_and_keeps_instruction_query_and_form(
    tokenizer, inputs, query, max_model_tokens, max_text_tokens
):
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


@settings(max_examples=200)
@given(tokenizer=tokenizers, text=texts, max_text_tokens=st.integers(1, 60))
def test_no_text_can_open_or_close_a_turn(tokenizer, text, max_text_tokens):
    examples = [record(0, text or "x", text or "x")]
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def control_tokens(of_messages):
        tokens = tokenizer(render_prompt(of_messages, tokenizer), add_special_tokens=False)["input_ids"]
        return [token for token in tokens if token in control]

    messages = fit_messages(task_of(), examples, text, tokenizer, config_of(max_text_tokens=max_text_tokens))
    plain = [Message(role=message.role, content="x") for message in messages]
    assert control_tokens(messages) == control_tokens(plain)


@given(text=st.text("ab \n", min_size=1, max_size=300), max_text_tokens=st.integers(1, 40))
def test_a_single_text_is_cut_from_its_end_to_the_limit(text, max_text_tokens):
    tokenizer = TOKENIZERS["words"]
    query = fit_messages(task_of(), (), text, tokenizer, config_of(max_text_tokens=max_text_tokens))[-1].content
    assert text.startswith(query)
    assert len(tokenizer(query)["input_ids"]) == min(max_text_tokens, len(tokenizer(text)["input_ids"]))


def test_record_inputs_are_shortened_evenly_before_any_example_is_dropped():
    examples = [record(0, "a " * 100), record(1, "b " * 100), record(2, "c")]
    room = count_prompt_tokens(fit_messages(task_of(), examples, "q", fake_tokenizer(), config_of()), fake_tokenizer())
    messages = fit_messages(task_of(), examples, "q", fake_tokenizer(), config_of(max_model_tokens=room - 100))
    lengths = [len(message.content) for message in messages if message.role == "user"]
    assert lengths[0] == 1
    assert abs(lengths[1] - lengths[2]) <= 1
    assert 50 < lengths[1] < 200


def test_the_least_relevant_examples_are_dropped_first():
    examples = [record(number, f"{number} word" * 30, str(number)) for number in range(4)]
    messages = fit_messages(task_of(), examples, "q", fake_tokenizer(), config_of(max_model_tokens=90))
    kept = [message.content for message in messages if message.role == "assistant"]
    assert kept == [str(number) for number in reversed(range(len(kept)))]
    assert 0 < len(kept) < 4


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
