"""Sealed JSON: it comes back equal, and no flipped bit goes unnoticed."""

import json

import pytest
from damage import flipped
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from hydra_ray import storage
from hydra_ray.errors import DamagedError
from hydra_ray.storage.seals import sealed_json, unsealed

values = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@examples(max_examples=50)
@given(values)
def test_a_sealed_object_is_json_and_comes_back_equal(value):
    content = sealed_json(value)
    assert unsealed(content) == value
    assert json.loads(content).keys() == {*value, "checksum"}


@examples(max_examples=15, deadline=None)
@given(values)
def test_any_flipped_bit_is_noticed(value):
    content = sealed_json(value)
    assert [bit for bit in range(8 * len(content)) if is_accepted(flipped(content, bit))] == []


def is_accepted(content: bytes) -> bool:
    try:
        unsealed(content)
    except ValueError:
        return False
    return True


@examples(max_examples=50)
@given(values)
def test_an_object_without_a_seal_is_taken_as_it_is(value):
    assert unsealed(json.dumps(value).encode()) == value


def test_an_entry_of_the_seals_name_is_refused():
    with pytest.raises(ValueError, match="'checksum'"):
        sealed_json({"checksum": 1})


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"7", b'"a"', b"{", b"\xff", b"[" * 100_000, b"{}", b'{"a": null}', b'{"a": 1}']
)
def test_what_is_no_object_of_the_shape_is_refused_by_name(content, tmp_path):
    location = str(tmp_path / "value.json")
    storage.write_bytes(location, content)
    with pytest.raises(DamagedError, match=f"{location} is damaged.*Make it anew"):
        storage.read_json(location, {"a": str}, "Make it anew.")
