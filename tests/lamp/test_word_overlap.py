from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.lamp.word_overlap import mentions, overlap, words

TEXTS = st.lists(st.sampled_from(["a", "B", "c!", "d-e"]), max_size=8).map(" ".join)


@given(first=TEXTS, second=TEXTS)
def test_overlap_is_the_f1_of_the_words(first: str, second: str):
    common = sum((Counter(words(first)) & Counter(words(second))).values())
    precision = common / len(words(first)) if words(first) else 0.0
    recall = common / len(words(second)) if words(second) else 0.0
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    assert abs(overlap(first, second) - expected) < 1e-12
    assert overlap(first, second) == overlap(second, first)


def test_a_phrase_is_mentioned_as_whole_words_only():
    assert mentions("A Dark Comedy, they said", "dark comedy")
    assert not mentions("tragicomedy", "comedy")
    assert not mentions("comedy", "")
