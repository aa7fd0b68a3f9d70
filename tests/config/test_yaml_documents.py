"""YAML documents of any kind end in a value or in one sentence, at once."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.config import apply_override, apply_setting, load_config, read_settings
from hydra_ray.config.yaml_documents import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse_document, read_manifests
from hydra_ray.errors import ConfigError

DEMO = Path(__file__).parents[2] / "jobs" / "configs" / "demo.yaml"


def grown(num_levels: int, fan_out: int = 10) -> str:
    """Lists of aliases of lists of aliases, in a flow mapping."""
    lists = [f"l0: &l0 [{','.join('x' * fan_out)}]"]
    lists += [f"l{level}: &l{level} [{','.join([f'*l{level - 1}'] * fan_out)}]" for level in range(1, num_levels)]
    return "{" + ", ".join(lists) + "}"


REFUSED = {
    "nested aliases that grow": (grown(9), "more than 100000 values"),
    "an alias of itself": ("&a [*a]", "the alias *a stands in what it is an alias of"),
    "an alias of itself in a mapping": ("&a {b: {c: *a}}", "the alias *a stands in"),
    "merged aliases that grow": (
        "{b0: &b0 {x: 1, y: 2}, "
        + ", ".join(f"b{n}: &b{n} {{<<: [{','.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 9))
        + "}",
        "more than 100000 values",
    ),
    "an alias of nothing": ("*a", "undefined alias 'a'"),
    "a long text that aliases repeat": (f"[&a {'x' * 100_000}, " + ", ".join(["*a"] * 300) + "]", "more than"),
    "lists inside each other": ("[" * 100_000, f"nested more than {MAX_DEPTH}"),
    "mappings inside each other": ("{a: " * 5000, f"nested more than {MAX_DEPTH}"),
    "lines inside each other": ("- " * 5000, f"nested more than {MAX_DEPTH}"),
    "a tag of Python": ("!!python/object/apply:os.system [ls]", "no value with the tag !!"),
    "a tag of nobody": ("!mine x", "no value with the tag !mine"),
    "binary": ("!!binary aGk=", "no value with the tag !!"),
    "binary garbage": ("!!binary \xff", "no value with the tag !!"),
    "a tagged date": ("!!timestamp 2024-02-30", "no value with the tag !!"),
    "a set": ("!!set {a, b}", "no value with the tag !!"),
    "an ordered mapping": ("!!omap [a: 1]", "no value with the tag !!"),
    "a whole number without digits": ("!!int x", "do not fit"),
    "an empty whole number": ("!!int ''", "do not fit"),
    "a number without digits": ("!!float x", "do not fit"),
    "a truth value that is none": ("!!bool x", "do not fit"),
    "a tag of a list on a text": ("!!seq x", "expected a sequence"),
    "a leading zero": ("007", "may be octal or decimal"),
    "a number beyond 64 bits": (str(2**63), "beyond 64 bits"),
    "a negative number beyond 64 bits": (str(-(2**63)), "beyond 64 bits"),
    "a number of thousands of digits": ("9" * 10_000, "beyond 64 bits"),
    "a hexadecimal number of thousands of digits": ("0x" + "f" * 10_000, "beyond 64 bits"),
    "a key that is a number": ("{1: a}", "a key is no text"),
    "a key that is a truth value": ("{on: a}", "a key is no text"),
    "a key that is null": ("{~: a}", "a key is no text"),
    "a key that is a list": ("{? [a] : b}", "a key is no text"),
    "the same key twice": ("{a: 1, b: 2, a: 3}", "the key 'a' is given twice"),
    "a merge of a number": ("{<<: 3}", "for merging"),
    "a tab": ("a:\n\t- b", "indent with spaces"),
    "NUL": ("a\0b", "U+0000"),
    "half a character": ("\ud83d", "U+D83D"),
    "several documents": ("--- a\n--- b", "several documents"),
    "an open quote": ("'a", "unexpected end"),
    "an open list": ("[a", "expected"),
    "a character that begins nothing": ("@a", "cannot start any token"),
    "a directive of another version": ("%YAML 9.9\n--- a", "version"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_document_that_is_no_value_is_refused_in_one_sentence(what: str):
    text, message = REFUSED[what]
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        parse_document(text)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("what", REFUSED)
def test_as_the_value_of_an_override_it_is_a_config_error(what: str):
    text, message = REFUSED[what]
    with pytest.raises(ConfigError) as told:
        apply_override({"run": "a"}, f"run={text}")
    assert message in str(told.value)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("yes", True), ("off", False), ("12", 12), ("0", 0), ("-0", 0), ("0x1F", 31),
        ("1_000", 1000), ("1.5", 1.5), ("12:30", "12:30"), ("190:20:30", "190:20:30"), ("2024-02-30", "2024-02-30"),
        ("1e3", "1e3"),
        ("[a, &x b, *x]", ["a", "b", "b"]), ("{b: {<<: {a: 1, c: 2}, a: 3}}", {"b": {"a": 3, "c": 2}}),
        ("'\u00e9'", "\u00e9"),
        ("2024-02-29t10:00:00z", "2024-02-29t10:00:00z"), ("!!str 5", "5"), ("=", "="), (str(2**63 - 1), 2**63 - 1),
    ],
)  # fmt: skip
def test_a_document_is_what_was_written(text: str, value: Any):
    assert parse_document(text) == value


def test_a_mapping_that_is_merged_twice_may_be_overridden_each_time():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n"
    assert parse_document(text) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 3, "y": 1}}


FILES = {
    "an empty file": (b"", "got nothing"),
    "a list": (b"[1, 2]", "got a list"),
    "a text": (b"just text", "got a text"),
    "a number": (b"5", "got 5"),
    "comments only": (b"# nothing\n", "got nothing"),
    "UTF-16": ("run: a".encode("utf-16"), "UTF-16: write it again as UTF-8"),
    "bytes that are no UTF-8": (b"run: \xff", "not UTF-8, from byte 5 on"),
    "NUL": (b"run: a\0", "U+0000"),
    "a huge file": (b"a: " + b"x" * MAX_BYTES, "larger than 2 MB"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_configuration_is_a_config_error(what: str, tmp_path: Path):
    content, message = FILES[what]
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as told:
        load_config(path)
    assert message in str(told.value)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("given", ["a\0b.yaml", "x" * 5000, "\ud83d.yaml", "", "/dev/zero"])
def test_a_path_that_is_no_file_is_a_config_error(given: str):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(given)


def test_a_folder_is_no_configuration(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)


def test_a_byte_order_mark_is_skipped(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + DEMO.read_bytes())
    assert load_config(path) == load_config(DEMO)


def test_an_override_through_grown_aliases_is_refused_before_it_is_shown(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(f"a: {grown(9)}")
    with pytest.raises(ConfigError, match="more than 100000 values"):
        load_config(path, ["a.l8.x=1"])


def test_what_an_override_goes_through_is_named_and_never_shown():
    settings = {"a": {"b": ["secret"] * 1000, "c": 0, "d": ""}}
    for key, kind in (("a.b.0", "a list"), ("a.c.x", "0"), ("a.d.x", "a text")):
        with pytest.raises(ConfigError) as told:
            apply_setting(settings, key, 1)
        assert f"which is {kind}" in str(told.value)
        assert len(str(told.value)) < 200


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a. ", " a", "a." * 500_000 + "a", "\ud83d."])
def test_an_override_without_a_dotted_key_is_refused(key: str):
    with pytest.raises(ConfigError, match=r"is not of the form section\.key=value") as told:
        apply_override({}, f"{key}=1")
    assert len(str(told.value)) < 1500


def test_values_within_the_bounds_are_taken():
    assert len(parse_document("".join(f"- label {n}\n" for n in range(20_000)))) == 20_000
    assert MAX_NODES > 20_000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_yaml_writes_is_read_as_it_was(value: Any):
    assert parse_document(yaml.safe_dump(value)) == value


PIECES = [
    *"{}[]&*!|>-?:,#%@`'\"\n\t 01ax~<=.", "&a ", "*a", "<<: ", "!!int ", "- ", ": ", "---\n", "\ufeff", "\x85",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_text_is_a_value_or_a_sentence(pieces: list[str]):
    try:
        parse_document("".join(pieces))
    except ValueError as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told
    assert len(told) < 300


def test_manifests_of_others_may_have_leading_zeros_and_several_documents(tmp_path: Path):
    path = tmp_path / "manifests.yaml"
    path.write_text("mode: 0644\n---\n---\nwhen: 2024-02-29\n")
    first, second = read_manifests(path)
    assert (first["mode"], "when" in second) == (0o644, True)
    path.write_text(grown(9))
    with pytest.raises(ValueError, match="more than 100000 values"):
        read_manifests(path)


def test_the_recursion_of_the_process_is_never_used_up(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("a:\n" + "".join(" " * depth + "a:\n" for depth in range(1, 1000)))
    with pytest.raises(ConfigError, match="nested more than"):
        read_settings(path)
