from pathlib import Path

import numpy as np
import pytest

from hydra_ray import storage
from hydra_ray.adapt.own_labels import items_of_user
from hydra_ray.forget.file_kinds import Artefact, Kind
from hydra_ray.forget.table_rows import drop_rows
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.retrieve.dense import encode_besides
from hydra_ray.rows import Query, Record, User
from hydra_ray.stages.item_vectors import read_vectors, write_vectors

TASK = TASKS["planted"]
SHARED = "a text that two users have"


def user(user_id: str, *inputs: str) -> User:
    *records, query = inputs
    return User(
        user_id=user_id,
        is_new=True,
        history=tuple(Record(record_id=str(place), input=each, output="comedy") for place, each in enumerate(records)),
        queries=(Query(query_id="q", input=query, target=None),),
    )


ANN, BOB = user("ann", "first", SHARED, "first", "asked"), user("bob", SHARED, "other")
NOBODY = User(user_id="cleo", is_new=True, history=(), queries=())


@pytest.fixture
def vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    texts = dict.fromkeys(item for each in (ANN, BOB) for item in items_of_user(TASK, each))
    return {text: rng.standard_normal(6).astype(np.float32) for text in texts}


@pytest.fixture
def location(tmp_path: Path, vectors: dict[str, np.ndarray]) -> str:
    found = str(tmp_path / "stages/adapter/codes" / ("0" * 16) / "vectors/bucket-00000.parquet")
    write_vectors(found, TASK, [ANN, BOB, NOBODY], vectors)
    return found


def test_vectors_are_read_to_the_bit_by_text(location: str, vectors: dict[str, np.ndarray]):
    found = read_vectors(location, TASK, [NOBODY, BOB, ANN])
    assert found.keys() == vectors.keys()
    assert all(found[text].tobytes() == vector.tobytes() for text, vector in vectors.items())
    assert read_vectors(location, TASK, [BOB]).keys() == {SHARED, "other"}


def test_no_text_is_in_the_table_and_a_missing_one_has_no_vectors(location: str):
    content = Path(location).read_bytes()
    assert not any(text.encode() in content for text in (SHARED, "first", "asked", "other"))
    assert read_vectors(f"{location}.none.parquet", TASK, [ANN]) == {}


def test_a_forgotten_user_s_vectors_go_but_those_of_a_text_that_another_user_has(
    location: str, vectors: dict[str, np.ndarray]
):
    drop_rows(Artefact(kind=Kind.TABLE, path="", location=location), {"ann"})
    left = read_vectors(location, TASK, [ANN, BOB])
    assert left.keys() == {SHARED, "other"}
    whole = storage.read_part(location)
    assert whole["user_id"].to_pylist() == ["bob", "cleo"]
    stored = np.array(whole["vectors"].to_pylist()[0], np.float32).reshape(2, -1)
    assert not any((stored == vectors[text]).all(axis=1).any() for text in ("first", "asked"))


def test_only_texts_without_a_vector_are_encoded_in_one_call(vectors: dict[str, np.ndarray]):
    calls: list[list[str]] = []

    def encode(texts):
        calls.append(list(texts))
        return np.full((len(texts), 6), 7, np.float32)

    encoded = encode_besides(vectors, encode)
    found = encoded(["new", SHARED, "newer", "first"])
    assert calls == [["new", "newer"]]
    assert (found[[0, 2]] == 7).all()
    np.testing.assert_array_equal(found[[1, 3]], [vectors[SHARED], vectors["first"]])
    encoded([SHARED])
    assert len(calls) == 1
    assert encode_besides({}, encode) is encode
