import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from hydra_ray.config import RetrieveConfig
from hydra_ray.lamp.word_overlap import words
from hydra_ray.retrieve.bm25 import BM25

WORDS = ("war", "love", "star", "tax", "goal", "soup", "film")
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=12)


QUERIES = st.lists(st.lists(st.sampled_from((*WORDS, "unknown")), max_size=8).map(" ".join), max_size=3)


@given(texts=TEXTS, queries=QUERIES)
def test_scores_equal_those_of_rank_bm25(texts: list[str], queries: list[str]):
    rival = BM25Okapi([list(words(text)) for text in texts])
    scores = BM25(texts, RetrieveConfig()).scores(queries)
    assert scores.shape == (len(queries), len(texts))
    for own, query in zip(scores, queries, strict=True):
        assert np.allclose(own, rival.get_scores(list(words(query))))


@given(
    texts=TEXTS,
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join),
    k1=st.floats(0.1, 3),
    b=st.floats(0, 1),
)
def test_scores_follow_the_settings_as_rank_bm25_does(texts: list[str], query: str, k1: float, b: float):
    expected = BM25Okapi([list(words(text)) for text in texts], k1=k1, b=b).get_scores(list(words(query)))
    assert np.allclose(BM25(texts, RetrieveConfig(k1=k1, b=b)).scores([query]), [expected])


def test_texts_without_words_score_zero():
    assert BM25(["", "!?"], RetrieveConfig()).scores(["anything"]).tolist() == [[0.0, 0.0]]
