from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
from builders import encode, user
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi
from sklearn.metrics.pairwise import cosine_similarity

from hydra_ray.config import ProbesConfig, RetrieveConfig, check_config
from hydra_ray.errors import ConfigError
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.lamp.word_overlap import words
from hydra_ray.retrieve.dense import encode_ahead
from hydra_ray.retrieve.methods import score_records
from hydra_ray.retrieve.ranking import rank_queries
from hydra_ray.rows import User

METHODS = get_args(get_args(RetrieveConfig.model_fields["method"].annotation)[-1])
PROBES = ProbesConfig(num_records=4, num_pseudo_queries=6)
DATES = st.lists(st.none() | st.integers(0, 3), min_size=9, max_size=9)
TASK = TASKS["planted"]


def config(method: str, **settings: float) -> RetrieveConfig:
    return RetrieveConfig.model_validate({"method": method, "encoder": "any", **settings})


def retrieved(someone: User, method: str, probes: ProbesConfig = PROBES, **settings: float) -> dict[str, list[str]]:
    """Ids of the retrieved records of each query, best first."""
    return {
        ranked.query.query_id: [each.record_id for each in ranked.retrieved]
        for ranked in rank_queries(someone, TASK, probes, config(method, **settings), encode)
    }


@pytest.mark.parametrize("method", METHODS)
@given(num_records=st.integers(0, 9), dates=DATES)
def test_every_method_ranks_exactly_the_records_that_a_query_may_look_at(
    method: str, num_records: int, dates: list[int | None]
):
    someone = user(num_records, dates=dates)
    everything = ProbesConfig(num_records=50, num_pseudo_queries=50)
    for ranked in rank_queries(someone, TASK, everything, config(method), encode):
        own = next((r for r in someone.history if ranked.query.query_id == f"record:{r.record_id}"), None)
        expected = [
            record.record_id
            for record in someone.history
            if own is None or (record != own and (own.date is None or record.date is None or record.date <= own.date))
        ]
        assert sorted(each.record_id for each in ranked.retrieved) == sorted(expected)
        scores = [each.score for each in ranked.retrieved]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_shorter_list_is_the_beginning_of_a_longer_one(method: str):
    someone = user(9, dates=[5, 1, 3, None, 2, 2, 9, 0, 4])
    longer = retrieved(someone, method, ProbesConfig(num_records=7, num_pseudo_queries=6))
    for query_id, record_ids in retrieved(someone, method).items():
        assert record_ids == longer[query_id][:4]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_ranking_comes_twice(method: str):
    assert retrieved(user(9), method) == retrieved(user(9), method)


@pytest.mark.parametrize("method", ["bm25", "dense", "recency", "hybrid"])
def test_of_equal_records_the_later_comes_first(method: str):
    texts = {f"input{n}": "a story" for n in range(5)}
    own = retrieved(user(5, **texts, query="a story of war"), method)["q"]
    assert own == ["4", "3", "2", "1"]


@pytest.mark.parametrize("method", METHODS)
def test_a_user_without_words_is_ranked(method: str):
    someone = user(3, input0="?", input1="!!", input2="...", query="--")
    assert sorted(retrieved(someone, method)["q"]) == ["0", "1", "2"]


TEXTS = st.lists(st.text("abcdef ", min_size=1, max_size=12), min_size=1, max_size=9)


@given(texts=TEXTS, query=st.text("abcdef ", min_size=1, max_size=12))
def test_dense_scores_are_the_cosines_of_the_vectors(texts: list[str], query: str):
    someone = user(len(texts), **{f"input{n}": text for n, text in enumerate(texts)}, query=query)
    ranked = next(iter(rank_queries(someone, TASK, ProbesConfig(num_records=9), config("dense"), encode)))
    expected = cosine_similarity(encode([query]), encode([record.input for record in someone.history]))[0]
    for each in ranked.retrieved:
        assert each.score == pytest.approx(expected[int(each.record_id)])
    assert len(ranked.retrieved) == len(texts)


@given(dates=DATES)
def test_recency_is_newest_first_then_undated_then_later_first(dates: list[int | None]):
    expected = []
    left = list(range(9))
    while left:
        dated = [n for n in left if dates[n] is not None]
        newest = max((dates[n] for n in dated), default=None)
        best = max(n for n in left if dates[n] == newest)
        expected.append(str(best))
        left.remove(best)
    found = retrieved(user(9, dates=dates), "recency", ProbesConfig(num_records=9))
    assert found["q"] == expected


def test_random_depends_on_the_seed_the_user_and_the_query_alone():
    probes = ProbesConfig(num_records=20, num_pseudo_queries=2)
    first = retrieved(user(20), "random", probes)
    assert first["q"] != retrieved(user(20), "random", probes, seed=1)["q"]
    texts = {f"input{n}": f"another story {n}" for n in range(20)}
    assert first["q"] == retrieved(user(20, **texts, query="another query"), "random", probes)["q"]
    other = User(user_id="v", is_new=True, history=user(20).history, queries=user(20).queries)
    assert first["q"] != retrieved(other, "random", probes)["q"]
    assert len({tuple(record_ids[:2]) for record_ids in first.values()}) == len(first)


def test_random_prefers_no_record():
    firsts = [retrieved(user(4), "random", seed=seed)["q"][0] for seed in range(400)]
    assert all(60 < firsts.count(str(n)) < 140 for n in range(4))


def mean_rank(scores: Sequence[float], place: int) -> float:
    """Rank from 1; equals share the mean of theirs."""
    better = sum(score > scores[place] for score in scores)
    return better + (sum(score == scores[place] for score in scores) + 1) / 2


@given(texts=TEXTS, dates=DATES, constant=st.sampled_from([1.0, 60.0]))
def test_hybrid_scores_are_sums_of_reciprocal_ranks(texts: list[str], dates: list[int | None], constant: float):
    someone = user(len(texts), dates=dates, **{f"input{n}": text for n, text in enumerate(texts)})
    everything = ProbesConfig(num_records=9, num_pseudo_queries=9)
    queries = {
        method: list(rank_queries(someone, TASK, everything, config(method, rrf_constant=constant), encode))
        for method in ("bm25", "dense", "hybrid")
    }
    for bm25, dense, hybrid in zip(*queries.values(), strict=True):
        lists = [{each.record_id: each.score for each in ranked.retrieved} for ranked in (bm25, dense)]
        for each in hybrid.retrieved:
            ranks = [mean_rank(list(scores.values()), list(scores).index(each.record_id)) for scores in lists]
            assert each.score == pytest.approx(sum(1 / (constant + rank) for rank in ranks))


def test_hybrid_of_three_records_by_hand():
    # bm25 ranks 0, 2, 1 (words of the query: two, none, one); the letters rank 2, 0, 1.
    someone = user(3, input0="cab dad xx", input1="zzz yyy", input2="cab dda", query="cab dad")
    texts = [record.input for record in someone.history]
    by_words = BM25Okapi([list(words(text)) for text in texts]).get_scores(["cab", "dad"])
    by_letters = cosine_similarity(encode(["cab dad"]), encode(texts))[0]
    assert np.argsort(-by_words).tolist() == [0, 2, 1]
    assert np.argsort(-by_letters).tolist() == [2, 0, 1]
    ranked = next(iter(rank_queries(someone, TASK, PROBES, config("hybrid"), encode)))
    scores = {each.record_id: each.score for each in ranked.retrieved}
    assert scores == pytest.approx({"0": 1 / 61 + 1 / 62, "2": 1 / 62 + 1 / 61, "1": 1 / 63 + 1 / 63})


def test_hybrid_is_dense_where_no_record_shares_a_word_with_the_query():
    someone = user(5, **{f"input{n}": "ab" * n + "c" for n in range(5)}, query="bcc a")
    assert retrieved(someone, "hybrid")["q"] == retrieved(someone, "dense")["q"]


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_all_texts_of_a_user_are_encoded_in_one_call(method: str):
    calls: list[Sequence[str]] = []

    def counted(texts: Sequence[str]) -> np.ndarray:
        calls.append(texts)
        return encode(texts)

    assert len(list(rank_queries(user(9), TASK, PROBES, config(method), counted))) == 7
    assert len(calls) == 1


def test_all_texts_of_many_users_are_encoded_in_one_call_and_each_once():
    calls: list[Sequence[str]] = []

    def counted(texts: Sequence[str]) -> np.ndarray:
        calls.append(texts)
        return encode(texts)

    users = [user(num_records) for num_records in (0, 3, 9)]
    ahead = encode_ahead(users, counted)
    for someone in users:
        assert list(rank_queries(someone, TASK, PROBES, config("dense"), ahead)) == list(
            rank_queries(someone, TASK, PROBES, config("dense"), encode)
        )
    assert len(calls) == 1
    assert len(set(calls[0])) == len(calls[0])


def test_a_user_without_queries_has_no_scores():
    assert list(score_records(user(3), [], config("hybrid"), encode)) == []


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_a_method_that_compares_vectors_needs_an_encoder(method: str):
    with pytest.raises(ConfigError, match=r"set retrieve\.encoder"):
        check_config({"retrieve": {"method": method}}, "here")
