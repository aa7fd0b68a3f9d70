import io
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_ray.errors import InputError
from hydra_ray.lamp.json_files import MAX_DEPTH, _Shallow, json_items
from hydra_ray.lamp.raw_streams import open_utf8

texts = st.one_of(st.text(max_size=6), st.sampled_from(["[", "]}", '"', "\\", '\\"[', "\\\\"]))
values = st.recursive(
    st.one_of(texts, st.none(), st.booleans(), st.integers(1 - 2**63, 2**63 - 1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=20,
)


def read(path: Path, content: bytes) -> list:
    path.write_bytes(content)
    return list(json_items(str(path), "item", "an array"))


@settings(max_examples=100)
@given(values=st.lists(values, min_size=1), is_marked=st.booleans(), is_ascii=st.booleans())
def test_values_agree_with_a_plain_json_reader(tmp_path_factory, values, is_marked, is_ascii):
    content = json.dumps(values, ensure_ascii=is_ascii).encode("utf-8-sig" if is_marked else "utf-8")
    assert read(tmp_path_factory.getbasetemp() / "values.json", content) == json.loads(content)


@settings(max_examples=200)
@given(value=values, depth=st.integers(1, 2 * MAX_DEPTH), size=st.integers(1, 9))
def test_nesting_is_seen_however_the_bytes_are_cut_and_whatever_strings_hold(value, depth, size):
    def depth_of(value: object) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return isinstance(value, list | dict) + max(map(depth_of, inner), default=0)

    for _ in range(depth):
        value = [value]
    file = _Shallow(io.BytesIO(json.dumps(value).encode()), "file.json")
    expectation = pytest.raises(InputError, match="nested") if depth_of(value) > MAX_DEPTH else nullcontext()
    with expectation:
        list(iter(lambda: file.read(size), b""))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(tmp_path, encoding):
    with pytest.raises(InputError, match="UTF-16 or UTF-32"):
        read(tmp_path / "values.json", '[{"id": 1}]'.encode(encoding))


@pytest.mark.parametrize("number", ["1" * 30, "1" * 5000, "1e999", "1e" + "9" * 30, "NaN", "-Infinity"])
def test_numbers_that_no_machine_holds_are_errors_and_not_crashes(tmp_path, number):
    with pytest.raises(InputError, match=r"values\.json is not valid JSON"):
        read(tmp_path / "values.json", f"[{number}]".encode())


def test_the_file_is_read_from_its_start(tmp_path):
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a").write_bytes(start + b"[1]")
        with open_utf8(str(tmp_path / "a")) as file:
            assert file.read() == b"[1]"
