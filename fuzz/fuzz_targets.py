"""Fuzz targets: functions of arbitrary bytes that may raise nothing but a HydraError.

Each target interprets its bytes as an input, processes it as a run does, and checks invariants of the result.
"""

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from chat_templates import FAMILIES, tokenizer_of, turn_marks

from hydra_ray.config import GeneratorConfig, Task, load_config
from hydra_ray.errors import ConfigError, HydraError
from hydra_ray.forget.forget_text import given_users
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.parsing import parse_answer
from hydra_ray.generate.prompts import count_prompt_tokens, fit_messages, profile_messages
from hydra_ray.generate.replies import parse_reply, read_answers, without_broken_choices
from hydra_ray.generate.requests import make_request, parse_completion
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.lamp_files import Sample, read_samples, read_targets
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.lamp.user_files import FileStart, read_user_files
from hydra_ray.rows import Completion, Generation, Message, Record, Rejected, User, from_table, to_table
from hydra_ray.runs.root import pseudonym
from hydra_ray.storage import join, require_absolute

Target = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"
"""Folder with one folder per target; files named seed-* are committed, the others were found by fuzzing."""

TAGS = Task(
    name="tags",
    kind="classification",
    instruction="Which tag?",
    input_pattern=r"Which tag\? text:(?P<input>.+)",
    labels=("comedy", "dark comedy", "romance"),
    record_output="tag",
)
_TASKS = (TAGS, *TASKS.values())
_ASKED = make_request(
    user_id="u",
    messages=(Message(role="user", content="Which tag?"),),
    max_tokens=8,
    config=GeneratorConfig(engine="fake", model="m"),
    num_samples=2,
    num_top_tokens=20,
)
_FAMILIES = tuple(FAMILIES)
_WITHOUT_DATES = Task(name="t", kind="text", instruction="Which?", is_history_labelled=False)


def lamp_questions(content: bytes) -> None:
    """Read a questions file of LaMP; the first byte selects the task."""
    task, content = _TASKS[content[0] % len(_TASKS)] if content else TAGS, content[1:]
    _write("dev_questions.json", content)
    _check_users(read_samples(task, str(_folder()), "dev", is_new=True))


def lamp_outputs(content: bytes) -> None:
    """Read an outputs file of LaMP."""
    _write("train_outputs.json", content)
    for user_id, target in read_targets(str(_folder()), "train"):
        assert user_id.startswith("train:")
        target.encode()


def own_jsonl(content: bytes) -> None:
    """Read a JSONL file of own users; the first byte selects the task."""
    task, content = _TASKS[content[0] % len(_TASKS)] if content else TAGS, content[1:]
    _check_own_users(task, "users.jsonl", content)


def own_parquet(content: bytes) -> None:
    """Read a Parquet file of own users."""
    _check_own_users(TAGS, "users.parquet", content)


def own_files(content: bytes) -> None:
    """Read a file of own users whose format is told by its content: JSON, CSV, Arrow IPC, packed or not."""
    _check_own_users(TAGS, "users", content)


def prompts(content: bytes) -> None:
    """Build prompts of NUL-separated texts; the first bytes select the template, the form and the lengths."""
    family, form, num_tokens, text_tokens = (*content[:4], 0, 0, 0, 0)[:4]
    name = _FAMILIES[family % len(_FAMILIES)]
    texts = content[4:].decode("utf-8", "replace").split("\0")
    query, profile, *others = [*texts, "", ""]
    records = [
        Record(record_id="r", input=text, output=output)
        for text, output in zip(others[::2], others[1::2], strict=False)
    ]
    settings = {"max_model_tokens": 150 + 8 * num_tokens, "max_text_tokens": 1 + text_tokens}
    form_name = "sentence" if form % 3 == 2 else "chat"
    config = GeneratorConfig.model_validate({"model": "m", "engine": "fake", "prompt_form": form_name, **settings})
    task = _WITHOUT_DATES if form % 3 == 1 else TASKS["LaMP_4"]
    tokenizer = tokenizer_of(name)
    messages = fit_messages(task, records, query, tokenizer, config, profile=profile)
    assert count_prompt_tokens(messages, tokenizer) + task.max_tokens <= config.max_model_tokens
    _check_turns(name, messages)
    if records:
        _check_turns(name, profile_messages(task, records, tokenizer, config))
    fit_messages(task, records, query, fake_tokenizer(), config, profile=profile)


def answers(content: bytes) -> None:
    """Parse a generated text; the first byte selects the task."""
    task, text = _TASKS[content[0] % len(_TASKS)] if content else TAGS, content[1:].decode("utf-8", "replace")
    answer = parse_answer(task, Generation(text=text, num_tokens=1, finish_reason="stop"))
    assert (answer.value is None) != (answer.error is None)
    assert not task.is_closed or answer.value is None or answer.value in task.labels
    if answer.value is not None:
        answer.value.encode()
        again = parse_answer(task, Generation(text=answer.value, num_tokens=1, finish_reason="stop"))
        assert again.value == answer.value


def replies(content: bytes) -> None:
    """Read a reply of an endpoint to a request for two samples, store the answers, find them again and parse them."""
    body, _ = without_broken_choices(parse_reply(content))
    answered = read_answers(body, _ASKED.num_samples, _ASKED.num_top_tokens)
    completion = Completion(
        request_id=_ASKED.request_id,
        user_id=_ASKED.user_id,
        prompt_tokens=answered.prompt_tokens,
        generations=answered.generations,
        error=None,
    )
    store = CompletionStore(root=str(_folder()), name="replies")
    store.write(0, "fuzz", [completion])
    assert store.read(0, [_ASKED]) == {_ASKED.request_id: completion}
    for task in (TAGS, TASKS["LaMP_4"]):
        for answer in parse_completion(completion, _ASKED.num_samples, task):
            assert (answer.value is None) != (answer.error is None)
            assert answer.num_tokens >= 0
            assert sum(answer.label_probabilities) <= 1.05
            assert answer.log_probability is None or math.isfinite(answer.log_probability)


def configurations(content: bytes) -> None:
    """Load a configuration with overrides after the first NUL; nothing but a ConfigError may be raised."""
    document, *overrides = content.split(b"\0")
    path = _write("run.yaml", document)
    try:
        config = load_config(path, [each.decode("utf-8", "replace") for each in overrides])
    except ConfigError:
        return
    assert type(config).model_validate_json(config.model_dump_json()) == config


def locations(content: bytes) -> None:
    """Check a storage root as typed; nothing is opened."""
    location = content.decode("utf-8", "replace")
    try:
        assert require_absolute(location, "storage.root") == location
    except ConfigError:
        assert not location.startswith("/") or "\0" in location
        return
    assert location.startswith(("/", "s3://"))
    assert join(location, "a", "b").endswith("/a/b")
    assert join(location, "a").startswith(location.rstrip("/"))


def forgotten_ids(content: bytes) -> None:
    """Read a file of user ids to remove."""
    found = given_users((), _write("ids.txt", content))
    assert all(found)
    assert all(len(pseudonym(user_id, "key")) == 32 for user_id in found)
    assert len({pseudonym(user_id, "key") for user_id in found}) == len(set(found))


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        lamp_questions, lamp_outputs, own_jsonl, own_parquet, own_files, prompts, answers, replies, configurations,
        locations, forgotten_ids,
    )
}  # fmt: skip


def run_target(name: str, content: bytes) -> None:
    """Run a target on some bytes; any exception but a HydraError is a bug."""
    try:
        TARGETS[name](content)
    except HydraError:
        return


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="hydra_ray-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(name: str, content: bytes) -> str:
    path = _folder() / name
    path.write_bytes(content)
    return str(path)


def _check_own_users(task: Task, name: str, content: bytes) -> None:
    location = _write(name, content)
    with tempfile.TemporaryDirectory(dir=_folder()) as events:
        samples = read_user_files(task, input_files([location]), Path(events))
        _check_users(each for each in samples if not isinstance(each, FileStart))


def _check_users(samples: Iterable[Sample | Rejected]) -> None:
    """Check that everything read survives a round trip through tables."""
    for each in samples:
        row, row_type = (each, Rejected) if isinstance(each, Rejected) else (each.user, User)
        assert list(from_table(to_table([row], row_type), row_type)) == [row]


def _check_turns(name: str, messages: Iterable[object]) -> None:
    turns = [(message.role, message.content) for message in messages]  # pyright: ignore[reportAttributeAccessIssue]
    assert turn_marks(name, turns) == turn_marks(name, [(role, "x") for role, _ in turns])
