"""What is fuzzed for hours by `make fuzz`, here for a moment: nothing but a HydraError comes of any bytes."""

import pytest
from fuzz_targets import CORPUS, TARGETS, run_target
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = {name: sorted((CORPUS / name).glob("seed-*")) for name in TARGETS}
TOKENS = (
    b"", b"\0", b'"', b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"1e999", b"-1",
    b"\n", b"\xff", b"\xef\xbb\xbf", b"<|im_start|>", b"[INST]", "\uff1c".encode(), b"0" * 50, b"'", b"&a", b"*a",
    b"!!", b"=", b".",
)  # fmt: skip
"""What files, overrides and prompts stumble over."""


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """A seed of a target with some places of it overwritten, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = draw(st.sampled_from(SEEDS[name])).read_bytes()
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 12)))
        inserted = draw(st.sampled_from(TOKENS) | st.binary(max_size=6))
        content = content[:start] + inserted + content[end:]
    return content


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_seeds_that_it_survives(name):
    assert SEEDS[name]
    for seed in SEEDS[name]:
        run_target(name, seed.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(draw=st.data())
def test_mutated_seeds_raise_nothing_but_hydra_errors(name, draw):
    run_target(name, draw.draw(mutated(name)))


def test_a_finding_is_no_hydra_error(monkeypatch):
    def raising(content: bytes) -> None:
        raise RecursionError

    monkeypatch.setitem(TARGETS, "answers", raising)
    with pytest.raises(RecursionError):
        run_target("answers", b"")
