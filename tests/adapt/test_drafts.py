import json
from dataclasses import replace

from builders import Rows, completion, rows_of, run_config, user

from hydra_ray.adapt.drafts import draft_requests, label_drafts
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import DraftedQuery, Request

TASK = TASKS["planted"]
CONFIG = run_config()


def comedy(request: Request) -> tuple[str, ...]:
    return ("comedy", "romance", "fantasy")


def own_query(rows: Rows) -> DraftedQuery:
    return next(query for query in rows.drafted.queries if not query.is_pseudo)


def test_every_prompt_of_every_query_is_asked_at_each_of_its_temperatures():
    rows = rows_of(user(8), comedy)
    asked = list(draft_requests([rows.ranked], TASK, fake_tokenizer(), CONFIG))
    by_key = {each.key: each.request for each in asked}
    assert len(by_key) == len(asked)
    for query in rows.drafted.queries:
        for draft in query.drafts:
            request = by_key[json.dumps(["u", query.query_id, draft.prompt, draft.temperature])]
            assert request.temperature == draft.temperature
            assert request.num_samples == (CONFIG.drafts.num_samples if draft.temperature else 1)
            assert draft.sample < request.num_samples
    assert len(by_key) == len({(q.query_id, d.prompt, d.temperature) for q in rows.drafted.queries for d in q.drafts})


def test_prompts_with_the_same_records_are_one_request():
    rows = rows_of(user(8), comedy)
    found = {each.key: each.request for each in rows.asked}
    assert found['["u", "q", "personal", 0.0]'] == found['["u", "q", "shuffled", 0.0]']
    assert found['["u", "q", "rag_2", 0.0]'] == found['["u", "q", "rag_k", 0.0]']  # k is 2
    assert found['["u", "q", "rag_1", 0.0]'] != found['["u", "q", "rag_k", 0.0]']


def test_a_one_record_prompt_was_answered_as_a_probe():
    rows = rows_of(user(8), comedy)
    found = {each.key: each.request for each in rows.asked}
    query = next(query for query in rows.probed.queries if not query.is_pseudo)
    first = json.dumps(["u", "q", query.retrieved[0].record_id])
    assert found[first] == found['["u", "q", "rag_1", 0.0]']


def test_the_records_of_a_prompt_are_told_and_stand_in_it_with_the_best_one_last():
    rows = rows_of(user(8), comedy)
    found = {each.key: each.request for each in rows.asked}
    records = {record.record_id: record for record in rows.user.history}
    for prompt in own_query(rows).prompts:
        for temperature in (0.0, 1.0):
            request = found.get(json.dumps(["u", "q", prompt.prompt, temperature]))
            if request is not None:
                turns = [message.content for message in request.messages if message.role == "user"]
                shown = [records[record_id].input for record_id in reversed(prompt.record_ids)]
                assert turns == [*shown, rows.user.queries[0].input]


def test_samples_keep_their_order():
    drafts = [draft for draft in own_query(rows_of(user(8), comedy)).drafts if draft.temperature]
    assert [(draft.prompt, draft.sample, draft.answer.value) for draft in drafts] == [
        ("rag_k", 0, "comedy"),
        ("rag_k", 1, "romance"),
        ("rag_k", 2, "fantasy"),
    ]


def test_quality_is_that_of_the_answer_where_the_target_may_be_seen():
    for is_new in (True, False):
        rows = rows_of(user(8, is_new=is_new), comedy)
        targets = {f"record:{record.record_id}": record.output for record in rows.user.history}
        targets |= {} if is_new else {"q": "comedy"}
        for query in rows.drafted.queries:
            for draft in query.drafts:
                assert draft.answer.value is not None
                target = targets.get(query.query_id)
                expected = None if target is None else quality(TASK, draft.answer.value, target)
                assert draft.quality == expected


def test_a_failed_draft_is_an_error_without_quality():
    rows = rows_of(user(8, is_new=False), comedy)
    requests = list(draft_requests([rows.ranked], TASK, fake_tokenizer(), CONFIG))
    failed = {
        each.key: replace(completion(each.request, ""), generations=(), error="too long")
        if each.request.temperature
        else completion(each.request, "no label at all")
        for each in requests
    }
    (row,) = label_drafts([rows.ranked], failed, TASK, CONFIG)
    drafts = [draft for query in row.queries for draft in query.drafts]
    assert {draft.answer.error for draft in drafts if draft.temperature} == {"too long"}
    assert {draft.answer.error for draft in drafts if not draft.temperature} == {"no label in the answer"}
    assert all(draft.quality is None and draft.answer.value is None for draft in drafts)
    assert sum(draft.temperature > 0 for draft in drafts) == 3 * len(row.queries)


def test_only_the_first_pseudo_queries_are_drafted():
    config = run_config(drafts={"num_pseudo_queries": 1})
    rows = rows_of(user(8), comedy, config=config)
    probed = [query.query_id for query in rows.probed.queries]
    assert [query.query_id for query in rows.drafted.queries] == probed[:2]
    assert len(probed) == 1 + config.probes.num_pseudo_queries


def test_a_user_without_history_is_asked_without_examples():
    rows = rows_of(user(0), comedy)
    assert all([message.role for message in each.request.messages] == ["system", "user"] for each in rows.asked)
    assert [query.query_id for query in rows.drafted.queries] == ["q"]
    assert {draft.answer.value for draft in own_query(rows).drafts} == {"comedy", "romance", "fantasy"}


def test_the_lead_prompt_shows_only_the_first_words_of_query_and_records():
    drafts = {"prompts": ("zero_shot", "rag_k", "lead_k"), "lead_words": 3, "num_records": 2}
    rows = rows_of(user(8), comedy, config=run_config(drafts=drafts))
    found = {each.key: each.request for each in rows.asked}
    whole, lead = (
        [turn.content for turn in found[f'["u", "q", "{name}", 0.0]'].messages[1:]] for name in ("rag_k", "lead_k")
    )
    assert lead == [" ".join(text.split()[:3]) for text in whole]
    assert lead != whole
