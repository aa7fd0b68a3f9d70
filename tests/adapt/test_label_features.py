"""Every named feature of a label against a value worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import answer, named_features

from hydra_ray.adapt.context import Context
from hydra_ray.adapt.label_features import handcrafted_features, handcrafted_names
from hydra_ray.adapt.label_model import LabelledText
from hydra_ray.config import DraftsConfig, Task
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.retrieve.dense import Vectors
from hydra_ray.rows import Record

LABELS = ("comedy", "dark comedy", "romance")
TASK = Task(name="t", kind="classification", instruction="?", labels=LABELS)
DRAFTS = DraftsConfig(prompts=("zero_shot", "rag_k"))
FLOOR = 0.01


def record(number: int, output: str, text: str = "text") -> Record:
    return Record(record_id=str(number), input=f"{text} {number}", output=output)


def told(value: str | None, *probabilities: float):
    return replace(answer(value), label_probabilities=probabilities)


HISTORY = (record(0, "romance"), record(1, "romance"), record(2, "comedy"), record(3, "romance"))
CONTEXT = Context(
    query="A dark comedy, said to be no romance.",
    history=HISTORY,
    near_N=np.array([0.1, 0.2, 0.6, 0.1]),
    retrieved=(HISTORY[2], HISTORY[0]),
    retrieved_weights=np.array([0.75, 0.25]),
    reranker_weights=np.array([0.9, 0.1]),
    probes=(told("comedy", 0.2, 0.2, 0.0), answer("romance")),
    greedy={"zero_shot": answer("romance"), "rag_k": told("dark comedy", 0.1, 0.3, 0.0)},
    samples=("romance", "comedy", "romance", "dark comedy"),
    labelled=LabelledText(by_text_L=np.array([-1.0, -2.0, -3.0]), by_user_L=np.array([-3.0, -1.0, -2.0])),
)
VECTORS: Vectors = {
    CONTEXT.query: np.array([0.6, 0.8]),
    "comedy": np.array([1.0, 0.0]),
    "dark comedy": np.array([0.0, 1.0]),
    "romance": np.array([-0.6, -0.8]),
}


def logs(*probabilities: float) -> list[float]:
    return [math.log(each + FLOOR) for each in probabilities]


EXPECTED = {
    "vote_share": [1 / 4, 1 / 4, 2 / 4],
    "is_rag_answer": [0, 1, 0],
    "is_mentioned": [1, 1, 1],
    "history_share": [1 / 4, 0, 3 / 4],
    "log_history_share": logs(1 / 4, 0, 3 / 4),
    "retrieved_share": [0.75, 0, 0.25],
    "near_share": [0.6, 0, 0.4],
    "log_near_share": logs(0.6, 0, 0.4),
    "is_nearest_output": [1, 0, 0],
    "query_cosine": [0.6, 0.8, -1.0],
    "log_p_probes": logs(0.25, 0.25, 0.5),  # half (.5, .5, 0), half (0, 0, 1), which tells nothing but its answer
    "log_p_probes_reranked": logs(0.45, 0.45, 0.1),
    "probe_share": [1 / 2, 0, 1 / 2],
    "log_p_zero_shot": logs(0, 0, 1),
    "log_p_rag_k": logs(0.25, 0.75, 0),
    "log_p_text": [-1, -2, -3],
    "log_p_own": [-3, -1, -2],
    "label=comedy": [1, 0, 0],
    "label=dark comedy": [0, 1, 0],
    "label=romance": [0, 0, 1],
}


def features(context: Context, task: Task = TASK, vectors: Vectors = VECTORS) -> dict[str, list[float]]:
    """Each named feature of all labels."""
    return named_features(handcrafted_names(task, DRAFTS), handcrafted_features(context, task, DRAFTS, vectors))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_feature_of_each_label_is_as_worked_out_by_hand(name: str):
    assert features(CONTEXT)[name] == pytest.approx(EXPECTED[name])


def test_these_are_all_the_features_of_a_classification():
    assert set(handcrafted_names(TASK, DRAFTS)) == set(EXPECTED)


def test_on_demand_what_records_say_of_labels_is_left_to_the_heads():
    names = handcrafted_names(TASK, DRAFTS, has_own_labels=False)
    assert names == handcrafted_names(TASK, DRAFTS)[:-1]
    everything = handcrafted_features(CONTEXT, TASK, DRAFTS, VECTORS)
    found = handcrafted_features(CONTEXT, TASK, DRAFTS, VECTORS, has_own_labels=False)
    assert handcrafted_names(TASK, DRAFTS)[-1] == "log_p_own"
    assert np.array_equal(found, everything[:, :-1])


def test_a_label_is_mentioned_only_as_whole_words():
    context = replace(CONTEXT, query="comedydark romances")
    found = features(context, vectors={**VECTORS, context.query: np.array([1.0, 0.0])})
    assert found["is_mentioned"] == [0, 0, 0]


def test_without_evidence_labels_differ_only_by_their_name_and_the_query():
    nothing = replace(
        CONTEXT,
        history=(),
        near_N=np.zeros(0),
        retrieved=(),
        retrieved_weights=np.zeros(0),
        reranker_weights=np.zeros(0),
        probes=(),
        greedy={},
        samples=(),
    )
    for name, values in features(nothing).items():
        if not name.startswith("label=") and name not in {"is_mentioned", "query_cosine", "log_p_text", "log_p_own"}:
            assert len(set(values)) == 1, name
    assert features(nothing)["log_p_rag_k"] == pytest.approx(logs(1 / 3, 1 / 3, 1 / 3))


def test_a_failed_probe_is_no_evidence():
    failed = replace(CONTEXT, probes=(CONTEXT.probes[0], answer(None)))
    assert features(failed)["probe_share"] == pytest.approx([1, 0, 0])
    assert features(failed)["log_p_probes"] == pytest.approx(logs(0.25, 0.25, 0))


RATINGS = TASKS["LaMP_3"]
RATED = replace(
    CONTEXT,
    history=tuple(record(n, output) for n, output in enumerate("5514")),
    probes=(answer("2"), answer("4")),
    greedy={"rag_k": told("1", 0.3, 0.0, 0.0, 0.0, 0.1)},
    samples=("1", "2", "3"),
    retrieved=(record(0, "5"), record(2, "1")),
    labelled=LabelledText(by_text_L=np.zeros(5), by_user_L=np.zeros(5)),
)
RATED_VECTORS: Vectors = {**{label: np.array([1.0, 0.0]) for label in RATINGS.labels}, CONTEXT.query: np.zeros(2)}


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("history_distance", 15 / 4),
        ("retrieved_distance", 0.75 * 5 + 0.25 * 1),
        ("near_distance", 0.1 * 5 + 0.2 * 5 + 0.6 * 1 + 0.1 * 4),
        ("vote_distance", 2),
        ("rag_distance", 0.75 * 1 + 0.25 * 5),
        ("probes_distance", 3),
    ],
)
def test_a_rating_is_compared_with_a_mean_rating(name: str, mean: float):
    found = features(RATED, RATINGS, RATED_VECTORS)
    assert found[name] == pytest.approx([abs(rating - mean) / 4 for rating in (1, 2, 3, 4, 5)])


def test_without_ratings_to_compare_with_there_is_no_distance():
    nothing = replace(RATED, history=(), near_N=np.zeros(0), samples=(), retrieved=(), retrieved_weights=np.zeros(0))
    found = features(nothing, RATINGS, RATED_VECTORS)
    for name in ("history_distance", "retrieved_distance", "near_distance", "vote_distance"):
        assert found[name] == [0] * 5


OPTIONS = TASKS["LaMP_1"]
PAPERS = replace(
    CONTEXT,
    query='"Own Paper"\n[1]: "Graph Kernels" [2]: "Deep Poetry of Trees"',
    history=(
        Record(record_id="0", input="we study graph theory", output="Graph Theory"),
        Record(record_id="1", input="poetry and trees", output="Trees"),
    ),
    near_N=np.array([0.8, 0.2]),
    retrieved=(),
    retrieved_weights=np.zeros(0),
    reranker_weights=np.zeros(0),
    probes=(),
    greedy={"rag_k": answer("[2]")},
    samples=("[1]",),
    labelled=None,
)
PAPER_VECTORS: Vectors = {
    PAPERS.query: np.array([0.0, 1.0]),
    "Graph Kernels": np.array([1.0, 0.0]),
    "Deep Poetry of Trees": np.array([0.0, 1.0]),
    "Graph Theory": np.array([0.6, 0.8]),
    "Trees": np.array([0.0, 1.0]),
}


def test_a_label_that_stands_for_an_option_is_compared_by_the_options_text():
    found = features(PAPERS, OPTIONS, PAPER_VECTORS)
    assert found["query_cosine"] == pytest.approx([0, 1])
    assert found["option_near_cosine"] == pytest.approx([0.8 * 0.6, 0.8 * 0.8 + 0.2 * 1])
    assert found["option_best_cosine"] == pytest.approx([0.6, 1.0])
    # F1 with the record's output, and the share of the option's words in its input: 2/4 + 1/2 and 2/5 + 2/4.
    assert found["option_overlap"] == pytest.approx([1.0, 0.9])
    assert found["log_p_rag_k"] == pytest.approx(logs(0, 1))
    assert found["vote_share"] == [1, 0]
    assert not {"log_p_text", "log_p_own"} & set(found)


def test_records_that_are_no_answers_say_nothing_of_labels():
    found = features(PAPERS, OPTIONS, PAPER_VECTORS)
    assert found["history_share"] == found["near_share"] == [0, 0]


def test_options_of_a_user_without_papers_are_alike():
    found = features(replace(PAPERS, history=(), near_N=np.zeros(0)), OPTIONS, PAPER_VECTORS)
    assert found["option_overlap"] == found["option_near_cosine"] == found["option_best_cosine"] == [0, 0]
