import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import run_config, user
from hypothesis import given
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from hydra_ray.config import ProbesConfig, RetrieveConfig
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.lamp.word_overlap import words
from hydra_ray.retrieve.bm25 import BM25
from hydra_ray.retrieve.ranking import choose_pseudo_queries, eligible_positions, rank, rank_queries, restore_queries
from hydra_ray.rows import ProbedQuery, ProbedUser, Record

TASK = TASKS["planted"]
PROBES = ProbesConfig(num_records=3, num_pseudo_queries=5)


@given(num_records=st.integers(0, 9), dates=st.lists(st.none() | st.integers(0, 3), min_size=9, max_size=9))
def test_a_pseudo_query_retrieves_neither_itself_nor_a_later_record(num_records: int, dates: list[int | None]):
    someone = user(num_records, dates=dates)
    records = {record.record_id: record for record in someone.history}
    for ranked in rank_queries(someone, TASK, PROBES, RetrieveConfig()):
        if not ranked.is_pseudo:
            continue
        own = records[ranked.query.query_id.removeprefix("record:")]
        assert own not in ranked.eligible
        for record in ranked.records(each.record_id for each in ranked.retrieved):
            assert record is not own
            assert own.date is None or record.date is None or record.date <= own.date


def test_pseudo_queries_are_a_seeded_sample_without_repeats():
    someone = user(20)
    first = choose_pseudo_queries(someone, TASK, PROBES)
    assert len(set(first)) == PROBES.num_pseudo_queries
    assert first == choose_pseudo_queries(someone, TASK, PROBES)
    assert first != choose_pseudo_queries(someone, TASK, PROBES.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("name", ["LaMP_1", "LaMP_7"])
def test_records_without_input_or_answer_make_no_pseudo_queries(name: str):
    assert choose_pseudo_queries(user(9), TASK, PROBES)
    assert choose_pseudo_queries(user(9), TASKS[name], PROBES) == []
    (ranked,) = rank_queries(user(9), TASKS[name], PROBES, RetrieveConfig())
    assert not ranked.is_pseudo
    assert len(ranked.retrieved) == PROBES.num_records


@given(dates=st.lists(st.none() | st.integers(0, 3), max_size=9))
def test_pseudo_queries_are_the_records_that_have_an_eligible_one(dates: list[int | None]):
    someone = user(len(dates), dates=dates)
    expected = [place for place in range(len(dates)) if eligible_positions(someone.history, place)]
    every = PROBES.model_copy(update={"num_pseudo_queries": 9})
    assert sorted(choose_pseudo_queries(someone, TASK, every)) == expected


def test_a_history_is_looked_through_a_fixed_number_of_times():
    def looks(num_records: int) -> int:
        someone = user(num_records, dates=list(range(num_records)))
        history = CountingHistory(someone.history)
        found = list(rank_queries(replace(someone, history=history), TASK, PROBES, RetrieveConfig()))
        assert len(found) == 1 + PROBES.num_pseudo_queries
        return history.num_looks

    assert looks(2000) <= 2.1 * looks(1000)


class CountingHistory(tuple[Record, ...]):
    """A history that counts how often a record is taken from it."""

    num_looks = 0

    def __iter__(self) -> Iterator[Record]:
        for record in super().__iter__():
            self.num_looks += 1
            yield record

    def __getitem__(self, place: Any) -> Any:
        self.num_looks += 1
        return super().__getitem__(place)


def test_a_record_without_an_input_is_no_pseudo_query():
    someone = user(4, input1="", input3="")
    assert sorted(choose_pseudo_queries(someone, TASK, PROBES)) == [0, 2]


def test_the_users_own_query_may_look_at_the_whole_history():
    ranked = next(iter(rank_queries(user(5), TASK, PROBES, RetrieveConfig())))
    assert len(ranked.eligible) == 5
    assert len(ranked.retrieved) == 3


def test_a_new_users_own_target_may_not_be_learned_from():
    for is_new in (True, False):
        someone = user(5, is_new=is_new)
        for ranked in rank_queries(someone, TASK, PROBES, RetrieveConfig()):
            assert ranked.may_learn_from(someone) == (ranked.is_pseudo or not is_new)


def test_restored_queries_equal_the_ranked_ones():
    someone = user(9, dates=[5, 1, 3, None, 2, 2, 9, 0, 4])
    ranked = list(rank_queries(someone, TASK, PROBES, RetrieveConfig()))
    probed = ProbedUser(
        user_id="u",
        is_new=True,
        queries=tuple(
            ProbedQuery(query_id=r.query.query_id, is_pseudo=r.is_pseudo, retrieved=r.retrieved, probes=())
            for r in ranked
        ),
    )
    assert list(restore_queries(someone, probed)) == ranked


def test_an_undated_record_may_look_at_everything_but_itself():
    assert eligible_positions(user(3).history, 1) == [0, 2]


def test_among_equal_scores_the_later_record_comes_first():
    assert rank(np.array([1.0, 2.0, 1.0, 2.0]), [0, 1, 2, 3], 3) == [3, 1, 2]


@pytest.mark.lamp
@pytest.mark.parametrize("name", ["LaMP_2N", "LaMP_4", "movielens_rating"])
def test_real_histories_are_ranked_as_by_rank_bm25(name: str):
    if "HYDRA_LAMP_DIR" not in os.environ:
        pytest.skip("HYDRA_LAMP_DIR is not set")
    samples = json.loads((Path(os.environ["HYDRA_LAMP_DIR"]) / name / "dev_questions.json").read_text())
    for sample in samples:
        texts = [record["text"] for record in sample["profile"]]
        expected = BM25Okapi([list(words(text)) for text in texts]).get_scores(list(words(sample["input"])))
        [scores] = BM25(texts, run_config().retrieve).scores([sample["input"]])
        assert np.allclose(scores, expected)
        ours = rank(scores, range(len(texts)), 4)
        assert np.allclose(expected[ours], np.sort(expected)[::-1][:4])
