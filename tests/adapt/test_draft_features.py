"""Every named feature of a candidate against a value worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import answer, named_features
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.adapt.context import Context
from hydra_ray.adapt.draft_features import handcrafted_features, handcrafted_names
from hydra_ray.adapt.pool import Pool, pool_of
from hydra_ray.config import DraftsConfig
from hydra_ray.lamp.rouge import rouge_l
from hydra_ray.retrieve.dense import Vectors
from hydra_ray.rows import Answer, Record

DRAFTS = DraftsConfig(prompts=("zero_shot", "rag_k"), num_probes=2)
ONE, TWO, LONG = "cats and dogs", "dogs bark", " ".join(["cats"] * 21)
HISTORY = (
    Record(record_id="0", input="i0", output="cats bark"),
    Record(record_id="1", input="i1", output="dogs and cats and mice"),
)


def likely(value: str, log_probability: float, num_tokens: int) -> Answer:
    return replace(answer(value), log_probability=log_probability, num_tokens=num_tokens)


CONTEXT = Context(
    query="dogs and " + "words " * 30 + "bark",
    history=HISTORY,
    near_N=np.array([0.25, 0.75]),
    retrieved=(HISTORY[1],),
    retrieved_weights=np.array([1.0]),
    reranker_weights=np.array([0.5, 0.3, 0.2]),
    probes=(answer(TWO), answer(None), answer(LONG)),
    greedy={"zero_shot": likely(ONE, -3.0, 4), "rag_k": likely(TWO, -1.0, 2), "rag_1": answer(LONG)},
    samples=(TWO, ONE, TWO, LONG),
    labelled=None,
)
CUT = "cats and"
POOL: Pool = {ONE: (ONE,), TWO: (TWO,), LONG: (LONG,), CUT: (ONE, LONG)}
VECTORS: Vectors = {
    CONTEXT.query: np.array([0.6, 0.8]),
    ONE: np.array([1.0, 0.0]),
    TWO: np.array([0.0, 1.0]),
    LONG: np.array([-1.0, 0.0]),
    CUT: np.array([0.0, -1.0]),
    "cats bark": np.array([0.8, 0.6]),
    "dogs and cats and mice": np.array([0.6, 0.8]),
}
USUAL = (math.log(1 + 2) + math.log(1 + 5)) / 2
GREEDY, SAMPLES = [ONE, TWO, TWO], [TWO, ONE, TWO, LONG]  # the second probe failed


def agreement(others: list[str]) -> list[float]:
    """Mean ROUGE-L with all others, one occurrence of the draft itself not counted."""
    means = []
    for text in POOL:
        rest = list(others)
        if text in rest:
            rest.remove(text)
        means.append(sum(rouge_l(text, other) for other in rest) / len(rest))
    return means


EXPECTED = {
    "vote_share": [1 / 4, 2 / 4, 1 / 4, 2 / 4],
    "probe_share": [0, 1, 0, 0],
    "consensus": agreement(GREEDY + SAMPLES),
    "consensus_greedy": agreement(GREEDY),
    "consensus_samples": agreement(SAMPLES),
    "query_overlap": [2 * 2 / 36, 2 * 2 / 35, 0, 2 * 1 / 35],
    "query_coverage": [2 / 3, 1, 0, 1 / 2],
    "lead_coverage": [2 / 3, 1 / 2, 0, 1 / 2],
    "query_cosine": [0.6, 0.8, -0.6, -0.8],
    "retrieved_overlap": [2 * 3 / 8, 2 * 1 / 7, 2 * 1 / 26, 2 * 2 / 7],
    "near_overlap": [
        0.25 * 2 / 5 + 0.75 * 6 / 8,
        0.25 * 2 / 4 + 0.75 * 2 / 7,
        0.25 * 2 / 23 + 0.75 * 2 / 26,
        0.25 * 2 / 4 + 0.75 * 4 / 7,
    ],
    "near_cosine": [0.65, 0.75, -0.65, -0.75],
    "best_output_cosine": [0.8, 0.8, 0, 0],
    "copied_output": [6 / 8, 2 / 4, 2 / 23, 4 / 7],
    "vocabulary": [1, 1, 1, 1],
    "log_length": [math.log(4), math.log(3), math.log(22), math.log(3)],
    "length_deviation": [abs(math.log(1 + length) - USUAL) for length in (3, 2, 21, 2)],
    "length_excess": [math.log(1 + length) - USUAL for length in (3, 2, 21, 2)],
    "repetition": [0, 0, 20 / 21, 0],
    "is_cut": [0, 0, 0, 1],
    "mean_log_probability": [-3 / 4, -1 / 2, -5 / 8, -3 / 4],  # of LONG nothing is told: the mean of the others
    "reranker_weight": [0, 0.5, 0, 0],
    "is_zero_shot_answer": [1, 0, 0, 1],
    "is_rag_k_answer": [0, 1, 0, 0],
}


def features(context: Context, pool: Pool = POOL, vectors: Vectors = VECTORS) -> dict[str, list[float]]:
    """Each named feature of all candidates."""
    return named_features(handcrafted_names(DRAFTS), handcrafted_features(pool, context, DRAFTS, vectors))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_feature_of_each_candidate_is_as_worked_out_by_hand(name: str):
    assert features(CONTEXT)[name] == pytest.approx(EXPECTED[name])


def test_these_are_all_the_features_of_a_candidate():
    assert set(handcrafted_names(DRAFTS)) == set(EXPECTED)


def test_a_word_that_the_user_never_wrote_is_not_in_the_users_vocabulary():
    text = "cats meow"
    found = features(CONTEXT, {**POOL, text: (ONE,)}, {**VECTORS, text: np.array([1.0, 0.0])})
    assert found["vocabulary"] == [1, 1, 1, 1, 1 / 2]


def test_a_single_draft_without_history_samples_and_probes_has_features():
    context = replace(
        CONTEXT,
        history=(),
        near_N=np.zeros(0),
        retrieved=(),
        retrieved_weights=np.zeros(0),
        reranker_weights=np.zeros(0),
        probes=(),
        greedy={"rag_k": answer(ONE)},
        samples=(),
    )
    pool = pool_of(context, DRAFTS, has_cuts=False)
    assert pool == {ONE: (ONE,)}
    found = features(context, pool)
    zero = set(EXPECTED) - {
        "query_overlap",
        "query_coverage",
        "lead_coverage",
        "query_cosine",
        "log_length",
        "is_rag_k_answer",
    }
    assert all(found[name] == [0] for name in zero)


words = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join)


@given(st.lists(words, min_size=1, max_size=6), st.lists(words, max_size=2), words)
def test_consensus_is_the_mean_over_all_others_whatever_the_pool(samples: list[str], probes: list[str], greedy: str):
    context = replace(
        CONTEXT,
        samples=tuple(samples),
        probes=tuple(map(answer, probes)),
        greedy={"rag_k": answer(greedy)},
        reranker_weights=np.ones(len(probes)),
    )
    pool = pool_of(context, DRAFTS, has_cuts=False)
    found = features(context, pool, {**VECTORS, **{text: np.array([1.0, 0.0]) for text in pool}})
    everything = [greedy, *probes, *samples]
    for text, value in zip(pool, found["consensus"], strict=True):
        rest = list(everything)
        rest.remove(text)
        assert value == pytest.approx(sum(rouge_l(text, other) for other in rest) / max(len(rest), 1))
