"""Explanations of queries, against the rows that they are made of."""

import json
from collections import Counter
from dataclasses import asdict, replace

from builders import adapter_scores, examples_of, rows_of, user

from hydra_ray.adapt.answers import Scored
from hydra_ray.adapt.explanation import Explanation, explain_query
from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Request

PREFERRED = {"personal": "comedy", "shared": "romance", "shuffled": "classic", "routed": "music"}


def write(request: Request) -> list[str]:
    if request.temperature:
        return ["violence", "nature", "violence"]
    return [("fantasy", "comedy", "politics")[min(len(request.messages) // 2 - 1, 2)]]


ROWS = rows_of(user(8), write)
(DRAFTED,) = (query for query in ROWS.drafted.queries if not query.is_pseudo)
(PROBED,) = (query for query in ROWS.probed.queries if not query.is_pseudo)


def explained(task: Task = TASKS["planted"]) -> Explanation:
    (examples,) = examples_of(ROWS, task=task)
    row = Scored(
        user=ROWS.user,
        probed=ROWS.probed,
        drafted=ROWS.drafted,
        reranker=ROWS.scored,
        adapter=adapter_scores(ROWS.user, examples, PREFERRED),
    )
    return explain_query(row, "q", task)


def test_records_stand_in_the_retrievers_order_with_their_rank_by_each_head():
    records = explained().records
    retrieved = [each.record_id for each in PROBED.retrieved]
    assert [record.record_id for record in records] == retrieved
    assert [record.places["retriever"] for record in records] == [1, 2, 3]
    # The own head prefers low ids, the shared one high ids (see builders).
    for head, order in (("personal", sorted(retrieved)), ("shared", sorted(retrieved, reverse=True))):
        assert [record.places[head] for record in records] == [1 + order.index(each) for each in retrieved]


def test_a_record_names_every_prompt_that_it_stood_in_and_no_other():
    records = {record.record_id: record for record in explained().records}
    for each in DRAFTED.prompts:
        holding = {record_id for record_id, record in records.items() if each.prompt in record.prompts}
        assert holding == set(each.record_ids) & set(records)
    best = PROBED.retrieved[0].record_id
    assert "rag_1" in records[best].prompts
    assert sum("rag_k" in record.prompts for record in records.values()) == 2


def test_answers_to_one_record_prompts_are_evaluated_by_the_target():
    probes = {probe.record_id: probe.answer.value for probe in PROBED.probes}
    for record in explained().records:
        assert record.probe == probes[record.record_id] == "comedy"
        assert record.probe_quality == 1


def test_proposals_count_every_understood_draft_once():
    found = explained().drafts
    expected: dict[str, Counter[str]] = {}
    for probe in PROBED.probes:
        expected.setdefault(str(probe.answer.value), Counter())["probe"] += 1
    for draft in DRAFTED.drafts:
        name = draft.prompt + (" sampled" if draft.temperature else "")
        expected.setdefault(str(draft.answer.value), Counter())[name] += 1
    assert {each.value: dict(each.proposals) for each in found if each.proposals} == expected
    assert next(each for each in found if each.value == "violence").proposals["rag_k sampled"] == 2


def test_drafts_stand_best_first_by_the_own_head_with_both_scores_and_their_quality():
    task = TASKS["planted"]
    drafts = explained().drafts
    assert drafts[0].value == "comedy"
    assert set(task.labels) <= {draft.value for draft in drafts}
    for draft in drafts:
        if draft.value in task.labels:
            assert draft.scores == {"personal": draft.value == "comedy", "shared": draft.value == "romance"}
        assert draft.quality == quality(task, draft.value, "comedy")


def test_a_candidate_that_is_the_beginning_of_a_draft_names_the_draft():
    task = TASKS["LaMP_4"]

    def headlines(request: Request) -> list[str]:
        return ["A storm hits: the city waits for light and bread"] if not request.temperature else ["Another storm"]

    rows = rows_of(user(8), headlines, task=task)
    (examples,) = examples_of(rows, task=task)
    first = "A storm hits"
    scored = adapter_scores(rows.user, examples, dict.fromkeys(PREFERRED, first))
    row = Scored(user=rows.user, probed=rows.probed, drafted=rows.drafted, reranker=rows.scored, adapter=scored)
    best = explain_query(row, "q", task).drafts[0]
    assert best.value == first
    assert set(best.proposals) >= {"zero_shot cut short", "rag_k cut short", "probe cut short"}
    assert all(name.endswith(" cut short") for name in best.proposals)


def test_without_a_target_nothing_is_evaluated():
    unknown = replace(ROWS.user, queries=tuple(replace(each, target=None) for each in ROWS.user.queries))
    (examples,) = examples_of(ROWS)
    scored = adapter_scores(ROWS.user, examples, PREFERRED)
    row = Scored(user=unknown, probed=ROWS.probed, drafted=ROWS.drafted, reranker=ROWS.scored, adapter=scored)
    found = explain_query(row, "q", TASKS["planted"])
    assert {record.probe_quality for record in found.records} == {None}
    assert {draft.quality for draft in found.drafts} == {None}


def test_an_explanation_is_plain_json():
    assert json.loads(json.dumps(asdict(explained()))).keys() == {"records", "drafts"}
