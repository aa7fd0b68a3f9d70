import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bytes_below import mentions

from hydra_ray import storage
from hydra_ray.config import GeneratorConfig
from hydra_ray.errors import StorageError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engines.fake import complete
from hydra_ray.generate.failures import TRANSIENT, FailureKind
from hydra_ray.generate.requests import make_request
from hydra_ray.rows import Asked, Completion, Message, Request, Token, arrow_list

CONFIG = GeneratorConfig(engine="fake", model="fake")
USER = "ann@example.org"


def request(question: str, user_id: str = USER) -> Request:
    return make_request(
        user_id=user_id, messages=(Message(role="user", content=question),), max_tokens=8, config=CONFIG, num_samples=2
    )


def asked(*questions: str) -> list[Asked]:
    return [Asked(key=f"{place} {each}", request=request(each)) for place, each in enumerate(questions)]


def answer(question: str) -> Completion:
    return complete(request(question))


def questions_known(store: CompletionStore, *questions: str, bucket: int = 0, asker: str = "") -> set[str]:
    """Those of some questions that the store has the right answers to."""
    requests = {request(each).request_id: each for each in questions}
    found = store.find(bucket, map(request, questions)).of(asker)
    assert found == {request_id: answer(requests[request_id]) for request_id in found}
    return {requests[request_id] for request_id in found}


def unanswered(store: CompletionStore, bucket: int, asked: list[Asked]) -> list[Request]:
    return store.find(bucket, [each.request for each in asked]).unanswered(asked)


def files(store: CompletionStore) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(store.folder).rglob("*.parquet")}


@pytest.fixture
def store(tmp_path: Path) -> CompletionStore:
    store = CompletionStore(root=str(tmp_path), name="0" * 16)
    store.write(0, "probes-1", [answer("a b"), answer("c d")])
    return store


def test_what_was_answered_is_found_by_its_request_in_its_bucket_alone(store: CompletionStore):
    assert questions_known(store, "a b", "c d", "e f") == {"a b", "c d"}
    assert questions_known(store, "c d") == {"c d"}
    assert questions_known(store) == questions_known(store, "a b", "c d", bucket=1) == set()
    assert (store.has_any(0), store.has_any(1)) == (True, False)


def test_another_run_finds_it_too_and_asks_only_what_is_new(store: CompletionStore):
    later = CompletionStore(root=store.root, name=store.name)
    assert unanswered(later, 0, asked("a b", "e f", "c d", "e f", "g h")) == [request("e f"), request("g h")]
    later.write(0, "drafts-2", [answer("e f")])
    assert unanswered(store, 0, asked("a b", "e f", "c d")) == []
    assert unanswered(store, 1, asked("a b")) == [request("a b")]


def test_no_file_holds_a_user_id_and_the_answer_comes_back_with_it(store: CompletionStore):
    assert mentions(store.root, USER) == {}
    assert store.read(0, [request("a b")])[request("a b").request_id].user_id == USER


def test_two_users_who_ask_the_same_are_answered_each_for_themselves(store: CompletionStore):
    assert store.read(0, [request("a b", user_id="bob")]) == {}


def test_each_writing_has_a_file_of_its_own(store: CompletionStore):
    before = files(store)
    store.write(0, "drafts-2", [answer("e f")])
    store.write(0, "probes-1", [answer("g h")])
    assert len(files(store)) == 3
    assert files(store).items() > before.items()
    assert questions_known(store, "a b", "c d", "e f", "g h") == {"a b", "c d", "e f", "g h"}


def test_writing_the_same_again_changes_nothing(store: CompletionStore):
    before = files(store)
    store.write(0, "probes-1", [answer("c d"), answer("a b")])
    assert set(files(store)) == set(before)


def test_what_one_asker_wrote_can_be_told_from_the_rest(store: CompletionStore):
    store.write(0, "drafts-2", [answer("e f")])
    assert questions_known(store, "a b", "c d", "e f", asker="drafts-2") == {"e f"}
    assert questions_known(store, "a b", "c d", "e f", asker="probes-1") == {"a b", "c d"}


def test_merging_leaves_one_file_of_the_asker_and_all_files_of_others(store: CompletionStore):
    store.write(0, "drafts-2", [answer("e f")])
    others = {path for path in files(store) if path.name.startswith("drafts-2")}
    store.write(0, "probes-1", [answer("g h")])
    store.write(0, "probes-1", [answer("a b"), answer("i j")])
    store.merge(0, "probes-1")
    assert len(files(store)) == 2
    assert others < set(files(store))
    assert questions_known(store, "a b", "c d", "e f", "g h", "i j") == {"a b", "c d", "e f", "g h", "i j"}
    before = files(store)
    store.merge(0, "probes-1")
    assert files(store) == before


def test_a_merging_that_was_killed_loses_nothing(store: CompletionStore, monkeypatch: pytest.MonkeyPatch):
    store.write(0, "probes-1", [answer("e f")])

    def killed(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_file", killed)
        with pytest.raises(KeyboardInterrupt):
            store.merge(0, "probes-1")
    assert questions_known(store, "a b", "c d", "e f") == {"a b", "c d", "e f"}
    store.merge(0, "probes-1")
    assert len(files(store)) == 1


def test_files_that_are_merged_while_they_are_read_are_found_where_they_went(
    store: CompletionStore, monkeypatch: pytest.MonkeyPatch
):
    store.write(0, "probes-1", [answer("e f")])
    original, listings = storage.list_files, []

    def list_and_merge(location: str) -> list[str]:
        names = original(location)
        listings.append(names)
        if len(listings) == 1:
            store.merge(0, "probes-1")
        return names

    monkeypatch.setattr(storage, "list_files", list_and_merge)
    assert questions_known(store, "a b", "c d", "e f") == {"a b", "c d", "e f"}
    assert len(listings) > 2


def test_a_file_that_cannot_be_read_is_an_error_and_not_a_question_asked_again(store: CompletionStore):
    next(iter(files(store))).write_bytes(b"PAR1 but no table")
    with pytest.raises(StorageError, match=r"bucket-00000/probes-1"):
        store.read(0, [request("a b")])


def poisoned(**changes: Any) -> Completion:
    """An answer with a generation that no generator gives."""
    completion = answer("a b")
    first, *others = completion.generations
    return replace(completion, generations=(replace(first, **changes), *others))


@pytest.mark.parametrize(
    "changes",
    [
        {"log_probability": 1000.0},
        {"log_probability": math.nan},
        {"log_probability": -math.inf},
        {"first_tokens": (Token(text="a", log_probability=1000.0),)},
        {"first_tokens": (Token(text="a", log_probability=math.inf),)},
        {"num_tokens": -1},
        {"num_tokens": 2**62},
        {"thought_tokens": 10**6},
        {"thought_tokens": -1},
    ],
    ids=repr,
)
def test_a_stored_answer_that_no_generator_gives_is_asked_again(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = CompletionStore(root=str(tmp_path), name="0" * 16)
    store.write(0, "probes-1", [poisoned(**changes), answer("c d")])
    assert unanswered(store, 0, asked("a b", "c d")) == [request("a b")]
    assert unanswered(store, 0, asked("a b")) == [request("a b")]
    assert [record.getMessage().count("1 stored answer cannot be used") for record in caplog.records] == [1]
    store.write(0, "probes-1", [answer("a b")])
    store.merge(0, "probes-1")
    assert questions_known(store, "a b", "c d") == {"a b", "c d"}
    assert len(files(store)) == 1


@pytest.mark.parametrize("prompt_tokens", [-1, 2**62])
def test_a_stored_answer_with_an_absurd_prompt_length_is_asked_again(store: CompletionStore, prompt_tokens: int):
    store.write(0, "drafts-2", [replace(answer("e f"), prompt_tokens=prompt_tokens)])
    assert unanswered(store, 0, asked("a b", "e f")) == [request("e f")]


def test_a_stored_answer_with_a_sample_too_few_is_asked_again(store: CompletionStore):
    store.write(0, "drafts-2", [replace(answer("e f"), generations=answer("e f").generations[:1])])
    assert unanswered(store, 0, asked("e f")) == [request("e f")]


def test_a_stored_text_that_is_not_utf_8_is_asked_again_and_its_neighbours_are_found(store: CompletionStore):
    (path,) = files(store)
    table = pq.read_table(path)
    broken = table.column("request_id").to_pylist().index(request("a b").request_id)
    texts = table.column("generations").combine_chunks().flatten().field("text")
    raw = [b"\xff" if place // 2 == broken else text.encode() for place, text in enumerate(texts.to_pylist())]
    generations = table.column("generations").combine_chunks()
    flat = generations.flatten()
    columns = [flat.field(field.name) for field in flat.type]
    columns[flat.type.get_field_index("text")] = pa.array(raw, pa.binary()).view(pa.string())
    struct = pa.StructArray.from_arrays(columns, fields=list(flat.type))
    lists = pa.ListArray.from_arrays(generations.offsets, struct, type=generations.type)
    place = table.schema.get_field_index("generations")
    pq.write_table(table.set_column(place, table.schema.field(place), lists), path, write_page_checksum=True)
    assert questions_known(store, "a b", "c d") == {"c d"}


def write_as_before(path: Path, text: str | None = None) -> None:
    """Write a file again as it was before thoughts were counted, with other texts if one is given."""
    table = pq.read_table(path)
    place = table.schema.get_field_index("generations")
    fields = [field for field in table.schema.field(place).type.value_type if field.name != "thought_tokens"]
    older = table.schema.set(place, pa.field("generations", arrow_list(pa.struct(fields)), nullable=False))
    rows = table.to_pylist()
    for row in rows:
        for generation in row["generations"]:
            generation.pop("thought_tokens", None)
            generation.update({"text": text, "num_tokens": 9} if text else {})
    pq.write_table(pa.Table.from_pylist(rows, schema=older), path)


def test_files_of_before_thoughts_were_counted_are_read(store: CompletionStore):
    (path,) = files(store)
    write_as_before(path)
    assert questions_known(store, "a b", "c d") == {"a b", "c d"}
    store.write(0, "probes-1", [answer("e f")])
    store.merge(0, "probes-1")
    assert questions_known(store, "a b", "c d", "e f") == {"a b", "c d", "e f"}


def test_thoughts_of_before_they_were_separated_are_no_answers(store: CompletionStore):
    (path,) = files(store)
    write_as_before(path, "<think>Is it love?</think>war")
    (first, *_) = store.read(0, [request("a b")])[request("a b").request_id].generations
    assert (first.text, first.num_tokens > first.thought_tokens > 0) == ("war", True)
    write_as_before(path, "<think>Is it love?")
    (first, *_) = store.read(0, [request("a b")])[request("a b").request_id].generations
    assert (first.text, first.thought_tokens) == ("", first.num_tokens)


def test_a_file_with_other_columns_is_an_error(store: CompletionStore):
    (path,) = files(store)
    pq.write_table(pq.read_table(path).drop_columns(["attempts"]), path)
    with pytest.raises(StorageError, match="has the schema"):
        store.read(0, [request("a b")])


def test_a_stage_that_asked_nothing_writes_nothing(store: CompletionStore):
    store.write(3, "drafts-2", [])
    assert not store.has_any(3)
    assert not os.path.exists(store.bucket_folder(3))


def test_what_is_still_being_written_is_not_there_yet(store: CompletionStore):
    for bucket in (0, 7):
        path = Path(store.bucket_folder(bucket), "drafts-2.parquet.0123.tmp")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half a table")
    assert questions_known(store, "a b", "c d") == {"a b", "c d"}
    assert not store.has_any(7)


def failed(kind: FailureKind) -> Completion:
    return replace(answer("e f"), generations=(), error="no answer", failure=kind, attempts=3)


@pytest.mark.parametrize("kind", [FailureKind.TOO_LONG, FailureKind.REFUSED])
def test_a_failure_that_would_come_again_is_an_answer_too(store: CompletionStore, kind: FailureKind):
    store.write(0, "drafts-2", [failed(kind)])
    assert unanswered(store, 0, asked("e f")) == []
    assert store.read(0, [request("e f")]) == {request("e f").request_id: failed(kind)}


@pytest.mark.parametrize("kind", sorted(TRANSIENT))
def test_a_failure_that_asking_again_may_put_right_is_not_kept(store: CompletionStore, kind: FailureKind):
    store.write(0, "drafts-2", [failed(kind)])
    assert unanswered(store, 0, asked("e f")) == [request("e f")]


def test_dropped_requests_are_asked_again_and_no_other(store: CompletionStore):
    store.write(0, "drafts-2", [answer("e f")])
    gone = [request(each).request_id for each in ("c d", "e f", "never asked")]
    assert store.drop(0, gone) == 2
    assert unanswered(store, 0, asked("a b", "c d", "e f")) == [request("c d"), request("e f")]
    assert store.drop(0, gone) == 0
