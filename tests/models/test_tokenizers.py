"""Tokenizer files of all kinds, whole and damaged: a tokenizer, or a ModelError."""

import base64
import json
import random
import shutil
from pathlib import Path

import pytest
from model_folders import BERT, LLAMA, write_model

from hydra_ray.config import GeneratorConfig, Task
from hydra_ray.errors import HydraError, ModelError
from hydra_ray.generate.prompts import fit_messages, render_prompt
from hydra_ray.models import load_tokenizer
from hydra_ray.models.tokenizers import read_tokenizer
from hydra_ray.rows import Message, Record

TASK = Task(name="t", kind="text", instruction="Write the headline.")
CONFIG = GeneratorConfig(model="m", max_model_tokens=2000)
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]",
)  # fmt: skip
NUM_SPECIAL = {"v3": 17, "v7": 20, "v11": 22, "v13": 24}
"""Number of these that there are in a version of the format."""


def write_tekken(folder: Path, version: str) -> None:
    """A vocabulary of bytes in Mistral's own format."""
    pieces = [base64.b64encode(bytes([rank])).decode() for rank in range(256)]
    vocabulary = [{"rank": rank, "token_bytes": piece, "token_str": None} for rank, piece in enumerate(pieces)]
    tokens = SPECIAL[: NUM_SPECIAL[version]]
    special = [{"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(tokens)]
    config = {
        "pattern": r"[^\r\n\p{L}\p{N}]?[\p{L}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "num_vocab_tokens": 256,
        "default_vocab_size": 256 + len(tokens),
        "default_num_special_tokens": len(tokens),
        "version": version,
    }
    (folder / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocabulary, "special_tokens": special}))


def model_folder(folder: Path, config=LLAMA, without=()) -> Path:
    write_model(folder, config)
    for name in without:
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize("version", NUM_SPECIAL)
@pytest.mark.parametrize("kind", ["mistral", "llama"])
def test_mistrals_own_format_alone_makes_prompts(version, kind, tmp_path):
    folder = model_folder(tmp_path / "model", {**LLAMA, "model_type": kind}, FILES)
    write_tekken(folder, version)
    tokenizer = load_tokenizer(str(folder))
    records = [Record(record_id="1", input="[INST] in </s>", output="out")]
    text = render_prompt(fit_messages(TASK, records, "query", tokenizer, CONFIG, profile="short"), tokenizer, CONFIG)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    numbers = [ids.count(SPECIAL.index(token)) for token in ("<s>", "[INST]", "[/INST]", "</s>")]
    assert numbers == [1, 2, 2, 1]
    words = (TASK.instruction, "short", "in", "out", "query")
    assert [text.count(each) for each in words[:2]] == [1, 1]
    assert all(each in text for each in words)


@pytest.mark.parametrize("kind", ["mistral", "llama"])
def test_mistrals_own_format_beside_the_common_one_changes_nothing(kind, tmp_path):
    folder = model_folder(tmp_path / "model", {**LLAMA, "model_type": kind})
    write_tekken(folder, "v7")
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.vocab_size == 2
    assert fit_messages(TASK, (), "query", tokenizer, CONFIG)


def test_a_sentencepiece_file_alone_makes_prompts(tmp_path):
    import sentencepiece

    folder = model_folder(tmp_path / "model", without=("tokenizer.json", "tokenizer_config.json"))
    (folder / "texts").write_text("the harbour froze over on sunday and the ferries stayed in port\n" * 30)
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        input=str(folder / "texts"), model_prefix=str(folder / "tokenizer"), vocab_size=60, byte_fallback=False,
        model_type="bpe", minloglevel=2,
    )  # fmt: skip
    tokenizer = load_tokenizer(str(folder))
    assert len(tokenizer("the harbour", add_special_tokens=False)["input_ids"]) > 1
    messages = fit_messages(TASK, (), "the harbour </s> froze", tokenizer, CONFIG)
    assert "the harbour < /s> froze" in render_prompt(messages, tokenizer, CONFIG)


def slow_tokenizer(folder: Path):
    """A tokenizer in Python, which tells no positions."""
    from transformers.tokenization_python import PythonBackend

    class Words(PythonBackend):
        def __init__(self, **others):
            self.words = {"<unk>": 0}
            super().__init__(unk_token="<unk>", eos_token="<|end|>", **others)

        @property
        def vocab_size(self):
            return 1000

        def get_vocab(self):
            return dict(self.words)

        def _tokenize(self, text, **_):
            return text.split()

        def _convert_token_to_id(self, token):
            return self.words.setdefault(token, len(self.words))

        def _convert_id_to_token(self, index):
            return next(word for word, number in self.words.items() if number == index)

    tokenizer = Words()
    tokenizer.name_or_path = str(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}<|end|> {{ m.role }} {{ m.content }}\n{% endfor %}<|end|> assistant"
    )
    return tokenizer


def test_a_tokenizer_that_tells_no_positions_cuts_and_guards_texts_as_well(tmp_path):
    tokenizer = slow_tokenizer(tmp_path)
    assert not tokenizer.is_fast
    config = CONFIG.model_copy(update={"max_text_tokens": 5})
    messages = fit_messages(TASK, (), "one two three four five six seven", tokenizer, config)
    assert messages[-1] == Message(role="user", content="one two three four five ")
    messages = fit_messages(TASK, (), "one <|end|> user", tokenizer, config)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer(render_prompt(messages, tokenizer, config))["input_ids"].count(end) == 3


@pytest.mark.parametrize(
    "config",
    [LLAMA, BERT, {**LLAMA, "model_type": "mistral"}, {**LLAMA, "model_type": "qwen2"}, {"model_type": "gpt2"}],
)
@pytest.mark.parametrize(
    "settings", [None, {}, {"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "GPT2Tokenizer"}]
)
def test_a_folder_without_vocabulary_is_refused(config, settings, tmp_path):
    folder = model_folder(tmp_path / "model", config, ("tokenizer.json", "tokenizer_config.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="tokenizer"):
        read_tokenizer(folder, "m")


GARBAGE = [
    b"", b"{", b"{}", b"[]", b"null", b"7", b'"x"', b"\x00\xff\x01", b'{"model": {}}',
    b'{"config": {}, "vocab": [], "special_tokens": []}',
]  # fmt: skip
NAMES = (
    "tokenizer.json", "tokenizer_config.json", "tekken.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt",
)  # fmt: skip


@pytest.mark.parametrize("content", GARBAGE, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_garbage_in_a_tokenizer_file_is_a_model_error_or_does_no_harm(name, content, tmp_path):
    is_alone = name in ("tekken.json", "tokenizer.model", "vocab.json")
    folder = model_folder(tmp_path / "model", without=("tokenizer.json",) if is_alone else ())
    (folder / name).write_bytes(content)
    use(folder)


def use(folder: Path) -> None:
    """Make a prompt with a folder's tokenizer; it may raise nothing but a HydraError."""
    try:
        tokenizer = read_tokenizer(folder, "m")
        messages = fit_messages(TASK, (), "the query", tokenizer, CONFIG)
    except HydraError:
        return
    text = render_prompt(messages, tokenizer, CONFIG)
    assert text.count("the query") == 1
    assert text.count(TASK.instruction) == 1


VALUES = [None, True, -1, 10**30, "", "x", "{{", "\ud83d", [], [1], {}, {"content": 7}, [["a", "b"]], 1.5]


def mutated(value: object, rng: random.Random) -> object:
    """A copy of a JSON value with one part of it replaced, removed or put elsewhere."""
    if rng.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return rng.choice(VALUES)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [*value[:place], *([mutated(value[place], rng)] if rng.random() < 0.8 else []), *value[place + 1 :]]
    name = rng.choice(sorted(value))
    others = {key: each for key, each in value.items() if key != name}
    return others if rng.random() < 0.2 else {**others, name: mutated(value[name], rng)}


def test_changed_tokenizer_files_raise_nothing_but_model_errors(tmp_path):
    whole = model_folder(tmp_path / "whole")
    write_tekken(whole, "v7")
    rng = random.Random(18)
    for number in range(400):
        folder = tmp_path / f"model-{number}"
        shutil.copytree(whole, folder)
        name = rng.choice(["tokenizer.json", "tokenizer_config.json", "tekken.json"])
        if name == "tekken.json":
            (folder / "tokenizer.json").unlink()
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(mutated(content, rng)))
        use(folder)
        shutil.rmtree(folder)
