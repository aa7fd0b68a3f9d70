import os
from dataclasses import replace
from pathlib import Path

import pytest

from hydra_ray.config import GeneratorConfig
from hydra_ray.generate.asking import make_request
from hydra_ray.generate.completions import CompletionStore
from hydra_ray.generate.fake_engine import FakeEngine
from hydra_ray.records import Asked, Message, Request

CONFIG = GeneratorConfig(engine="fake", model="fake")


def request(question: str) -> Request:
    return make_request(
        user_id="u", messages=(Message(role="user", content=question),), max_tokens=8, config=CONFIG, num_samples=2
    )


def asked(*questions: str) -> list[Asked]:
    return [Asked(key=f"{place} {each}", request=request(each)) for place, each in enumerate(questions)]


COMPLETIONS = {each: FakeEngine().generate([request(each)])[0] for each in ("a b", "c d", "e f")}
NAMES = {each: request(each).request_id for each in COMPLETIONS}


@pytest.fixture
def store(tmp_path: Path) -> CompletionStore:
    store = CompletionStore(folder=str(tmp_path / "store"))
    store.write(0, "probes-1", [COMPLETIONS["a b"], COMPLETIONS["c d"]])
    return store


def test_what_was_answered_is_found_by_its_name_in_its_bucket_alone(store: CompletionStore):
    assert store.read(0, NAMES.values()) == {NAMES[each]: COMPLETIONS[each] for each in ("a b", "c d")}
    assert store.read(0, [NAMES["c d"]]) == {NAMES["c d"]: COMPLETIONS["c d"]}
    assert store.read(0, []) == store.read(1, NAMES.values()) == {}
    assert (store.has_any(0), store.has_any(1)) == (True, False)


def test_another_run_finds_it_too_and_asks_only_what_is_new(store: CompletionStore):
    later = CompletionStore(folder=store.folder)
    assert later.unanswered(0, asked("a b", "e f", "c d", "e f", "g h")) == [request("e f"), request("g h")]
    later.write(0, "drafts-2", [COMPLETIONS["e f"]])
    assert store.unanswered(0, asked("a b", "e f", "c d")) == []
    assert store.unanswered(1, asked("a b")) == [request("a b")]


def test_stages_write_to_files_of_their_own(store: CompletionStore):
    before = {path: path.read_bytes() for path in Path(store.folder).rglob("*.parquet")}
    store.write(0, "drafts-2", [COMPLETIONS["e f"]])
    assert len(list(Path(store.folder).rglob("*.parquet"))) == 2
    assert all(path.read_bytes() == content for path, content in before.items())
    assert set(store.read(0, NAMES.values())) == set(NAMES.values())


def test_a_stage_that_asked_nothing_writes_nothing(store: CompletionStore):
    store.write(3, "drafts-2", [])
    assert not store.has_any(3)
    assert not os.path.exists(os.path.join(store.folder, "bucket-00003"))


def test_what_is_still_being_written_is_not_there_yet(store: CompletionStore):
    for bucket in ("bucket-00000", "bucket-00007"):
        path = Path(store.folder, bucket, "drafts-2.parquet.0123.tmp")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half a table")
    assert set(store.read(0, NAMES.values())) == {NAMES["a b"], NAMES["c d"]}
    assert not store.has_any(7)


def test_a_failure_is_an_answer_too(store: CompletionStore):
    failed = replace(COMPLETIONS["e f"], generations=(), error="prompt too long")
    store.write(0, "drafts-2", [failed])
    assert store.unanswered(0, asked("e f")) == []
    assert store.read(0, [NAMES["e f"]]) == {NAMES["e f"]: failed}
