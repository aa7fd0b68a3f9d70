from dataclasses import replace

import numpy as np
import pytest
from builders import answer
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.adapt.context import Context
from hydra_ray.adapt.pool import MIN_WORDS, cuts, greedy_drafts, pool_of, probe_drafts, usual_words
from hydra_ray.config import DraftsConfig
from hydra_ray.rows import Record

DRAFTS = DraftsConfig(prompts=("zero_shot", "rag_k"), num_probes=2)
CONTEXT = Context(
    query="q",
    history=(),
    near_N=np.zeros(0),
    retrieved=(),
    retrieved_weights=np.zeros(0),
    reranker_weights=np.zeros(0),
    probes=(answer("rag"), answer(None), answer("third probe")),
    greedy={"rag_k": answer("rag"), "zero_shot": answer("zero"), "rag_1": answer("not asked for")},
    samples=("sample", "zero", "sample"),
    labelled=None,
)


def history(*lengths: int) -> tuple[Record, ...]:
    return tuple(Record(record_id=str(n), input="i", output=" ".join(["w"] * each)) for n, each in enumerate(lengths))


def test_the_pool_is_distinct_greedy_answers_first_probes_and_samples():
    none, three = (DRAFTS.model_copy(update={"num_probes": num}) for num in (0, 3))
    assert list(pool_of(CONTEXT, DRAFTS, has_cuts=False)) == ["zero", "rag", "sample"]
    assert list(pool_of(CONTEXT, none, has_cuts=False)) == ["zero", "rag", "sample"]
    assert list(pool_of(CONTEXT, three, has_cuts=False)) == ["zero", "rag", "third probe", "sample"]
    assert pool_of(replace(CONTEXT, greedy={}, probes=(), samples=()), DRAFTS, has_cuts=True) == {}


def test_repeated_answers_are_repeated_drafts_and_failed_ones_are_none():
    context = replace(CONTEXT, greedy={"rag_k": answer("same"), "zero_shot": answer("same")})
    assert greedy_drafts(context, DRAFTS) == ["same", "same"]
    assert probe_drafts(context, DRAFTS) == ["rag"]


@pytest.mark.parametrize(
    ("draft", "usual", "expected"),
    [
        ("Cats and dogs: why they bark at night", None, ["Cats and dogs"]),
        ("Cats and dogs: why they bark at night", 5, ["Cats and dogs", "Cats and dogs: why they"]),
        ("Dogs: why they bark at night", None, []),
        ("Dogs: why they bark at night", 3, ["Dogs: why they"]),
        ("One-sided cats and dogs", None, []),
        ("one two three four", 3, ["one two three"]),
        ("one two three four", 4, []),
        ("one two three four", 2, []),
        ("one two three", 3, []),
        ("", 3, []),
    ],
)
def test_a_draft_is_cut_after_its_first_clause_and_after_the_usual_number_of_words(
    draft: str, usual: int | None, expected: list[str]
):
    assert list(cuts(draft, usual)) == expected


def test_the_usual_number_of_words_is_the_median_of_the_users_outputs():
    assert usual_words(()) is None
    assert usual_words(history(3, 30, 4)) == 4


texts = st.lists(st.sampled_from(["a", "b,", "c.", "d:", "e"]), min_size=1, max_size=6).map(" ".join)


@given(st.lists(texts, min_size=1, max_size=4), texts, st.lists(st.integers(1, 5), max_size=3))
def test_every_cut_begins_its_drafts_and_nothing_that_was_drafted_is_lost(
    samples: list[str], greedy: str, lengths: list[int]
):
    context = replace(
        CONTEXT, samples=tuple(samples), probes=(), greedy={"rag_k": answer(greedy)}, history=history(*lengths)
    )
    pool = pool_of(context, DRAFTS, has_cuts=True)
    drafts = {greedy, *samples}
    assert set(pool) >= drafts
    for text, origins in pool.items():
        assert set(origins) == {
            each for each in drafts if each == text or text in cuts(each, usual_words(context.history))
        }
        assert len(set(origins)) == len(origins) > 0
        assert all(origin.startswith(text) for origin in origins)
        assert text in drafts or len(text.split()) >= MIN_WORDS
