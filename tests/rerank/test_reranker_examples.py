from dataclasses import replace

import pytest
from builders import answer, run_config, user

from hydra_ray.config import RunConfig
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.reranker_examples import handcrafted_names, reranker_examples, select_records
from hydra_ray.retrieve.ranking import rank_queries
from hydra_ray.rows import Probe, ProbedQuery, ProbedUser, User

CONFIG = run_config()
TASK = TASKS["planted"]


def probed_user(someone: User, failed: str | None = None) -> ProbedUser:
    """Probes of everything that may be learned from; the record `failed` always fails, odd records help."""
    queries: list[ProbedQuery] = []
    for ranked in rank_queries(someone, TASK, CONFIG.probes, CONFIG.retrieve):
        probes = [
            Probe(
                record_id=each.record_id,
                answer=answer(None if each.record_id == failed else "comedy"),
                quality=None if each.record_id == failed else float(int(each.record_id) % 2),
            )
            for each in ranked.retrieved
        ]
        queries.append(
            ProbedQuery(
                query_id=ranked.query.query_id,
                is_pseudo=ranked.is_pseudo,
                retrieved=ranked.retrieved,
                probes=tuple(probes) if ranked.may_learn_from(someone) else (),
            )
        )
    return ProbedUser(user_id=someone.user_id, is_new=someone.is_new, queries=tuple(queries))


def test_candidates_are_the_retrieved_records_with_the_quality_of_their_probes():
    someone = user(6)
    probed = probed_user(someone)
    examples = reranker_examples(someone, probed, TASK, CONFIG)
    assert [group.query_id for group in examples.groups] == [query.query_id for query in probed.queries]
    for group, query in zip(examples.groups, probed.queries, strict=True):
        assert [c.candidate_id for c in group.candidates] == [r.record_id for r in query.retrieved]
        assert all(len(c.plain) == len(handcrafted_names(TASK, CONFIG)) for c in group.candidates)
        for candidate in group.candidates:
            assert candidate.quality == (float(int(candidate.candidate_id) % 2) if group.is_pseudo else None)


def test_without_plain_features_there_are_none_and_nothing_else_differs():
    someone = user(6)
    config = run_config(reranker={"has_plain_features": False, "base": CONFIG.reranker.base.model_dump()})
    assert handcrafted_names(TASK, config) == ()
    bare = reranker_examples(someone, probed_user(someone), TASK, config)
    full = reranker_examples(someone, probed_user(someone), TASK, CONFIG)
    assert bare.groups == tuple(
        replace(group, candidates=tuple(replace(each, plain=()) for each in group.candidates)) for group in full.groups
    )


def test_published_labels_of_a_closed_task_are_whether_the_probe_is_right():
    someone, config = user(6), published()
    probed = probed_user(someone)
    halves = replace(
        probed,
        queries=tuple(
            replace(query, probes=tuple(replace(each, quality=each.quality and 0.5) for each in query.probes))
            for query in probed.queries
        ),
    )
    for row, label in ((probed, lambda record_id: float(int(record_id) % 2)), (halves, lambda _: 0.0)):
        for group in reranker_examples(someone, row, TASK, config).groups:
            for each in group.candidates:
                assert each.quality == (label(each.candidate_id) if group.is_pseudo else None)


def test_published_labels_of_a_text_task_are_whether_the_probe_is_above_the_users_mean():
    task, config = TASKS["LaMP_4"], published()
    # A target is one word: an answer that has it among n words has a precision of 1/n and a recall of 1.
    someone, words = user(6), {"0": 1, "1": 2, "2": 3, "3": 4, "4": 5}
    probed = probed_user(someone, failed="5")
    targets = {f"record:{record.record_id}": record.output for record in someone.history}
    probed = replace(
        probed,
        queries=tuple(
            replace(
                query,
                probes=tuple(
                    each
                    if each.answer.value is None
                    else replace(
                        each, answer=answer(" ".join([targets[query.query_id], *"abcd"][: words[each.record_id]]))
                    )
                    for each in query.probes
                ),
            )
            for query in probed.queries
        ),
    )
    learned = [each.record_id for query in probed.queries for each in query.probes if each.quality is not None]
    rouges = [2 / (1 + words[record_id]) for record_id in learned]
    mean = sum(rouges) / len(rouges)
    groups = reranker_examples(someone, probed, task, config).groups
    found = [(each.candidate_id, each.quality) for group in groups if group.is_pseudo for each in group.candidates]
    assert found == [(record_id, float(each > mean)) for record_id, each in zip(learned, rouges, strict=True)]
    assert {quality for _, quality in found} == {0.0, 1.0}
    assert "5" not in dict(found)
    assert all(each.quality is None for group in groups if not group.is_pseudo for each in group.candidates)


def published() -> RunConfig:
    return run_config(reranker={"base": CONFIG.reranker.base.model_dump(), "labels": "published"})


def test_a_record_without_input_is_its_output_and_is_compared_by_it():
    task = TASKS["LaMP_7"]
    someone = user(3, input0="", input1="", input2="", query="a comedy")
    group = reranker_examples(someone, probed_user(someone), task, CONFIG).groups[0]
    outputs = {record.record_id: record.output for record in someone.history}
    assert {each.candidate_id: each.text for each in group.candidates} == outputs
    found = {
        each.text: dict(zip(handcrafted_names(task, CONFIG), each.plain, strict=True)) for each in group.candidates
    }
    assert found["comedy"]["query_overlap"] == pytest.approx(2 / 3)
    assert found["romance"]["query_overlap"] == 0


def test_a_candidate_shows_the_records_output():
    (group, *_) = reranker_examples(user(6), probed_user(user(6)), TASK, CONFIG).groups
    records = {record.record_id: record for record in user(6).history}
    for candidate in group.candidates:
        assert records[candidate.candidate_id].output in candidate.text
        assert records[candidate.candidate_id].input in candidate.text


def test_what_the_record_says_of_its_output_is_a_feature_of_a_closed_task():
    someone = user(6)  # the query mentions comedy and romance
    group = reranker_examples(someone, probed_user(someone), TASK, CONFIG).groups[0]
    for candidate in group.candidates:
        features = dict(zip(handcrafted_names(TASK, CONFIG), candidate.plain, strict=True))
        output = next(record.output for record in someone.history if record.record_id == candidate.candidate_id)
        assert [label for label in TASK.labels if features[f"output={label}"]] == [output]
        assert features["output_coverage"] == float(output in {"comedy", "romance"})


def test_a_failed_probe_teaches_nothing():
    someone = user(6)
    for group in reranker_examples(someone, probed_user(someone, failed="1"), TASK, CONFIG).groups:
        if group.is_pseudo:
            assert all(c.candidate_id != "1" and c.quality is not None for c in group.candidates)


def test_the_query_of_a_new_user_has_no_quality_and_that_of_a_training_user_has():
    for is_new in (True, False):
        someone = user(6, is_new=is_new)
        group = reranker_examples(someone, probed_user(someone), TASK, CONFIG).groups[0]
        assert not group.is_pseudo
        assert all((c.quality is None) == is_new for c in group.candidates)


def test_a_user_without_history_has_no_groups():
    someone = user(0)
    assert reranker_examples(someone, probed_user(someone), TASK, CONFIG).groups == ()


def test_the_highest_scores_are_selected_best_first():
    assert select_records({"a": 0.1, "b": 0.9, "c": 0.9, "d": -1.0}, 3) == ["b", "c", "a"]


def test_in_a_cross_fitted_run_the_reranker_learns_from_pseudo_queries_only():
    someone = replace(user(6, is_new=False), fold=0)
    groups = reranker_examples(someone, probed_user(someone, failed="3"), TASK, CONFIG).groups
    assert {group.is_pseudo for group in groups} == {True, False}
    for group in groups:
        qualities = [candidate.quality for candidate in group.candidates]
        assert (None not in qualities) if group.is_pseudo else set(qualities) == {None}
        assert group.is_pseudo or "3" in {candidate.candidate_id for candidate in group.candidates}
