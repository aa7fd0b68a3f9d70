import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import Rows, encode, rows_of, run_config, user

from hydra_ray.adapt.context import Context, make_context
from hydra_ray.generate.prompts import PROFILE_TOKENS
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.retrieve.dense import NEAR_TEMPERATURE
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import VARIANTS, Request

TASK = TASKS["LaMP_4"]


def telling(request: Request) -> list[str]:
    """Texts that tell to which request they are the answer."""
    return [f"{request.request_id} {sample}" for sample in range(request.num_samples)]


def context_of(
    rows: Rows, variant: str = "personal", query_id: str = "q", sampled: Sequence[str] = ("rag_k",)
) -> tuple[RankedQuery, Context]:
    config = run_config(drafts={"sampled_prompts": sampled, "lead_words": 1})
    texts = [text for record in rows.user.history for text in (record.input, record.output)]
    texts += [query.input for query in rows.user.queries]
    ranked = next(each for each in restore_queries(rows.user, rows.probed) if each.query.query_id == query_id)
    context = make_context(
        ranked,
        next(each for each in rows.probed.queries if each.query_id == query_id),
        next((each for each in rows.scored.groups if each.query_id == query_id), None),
        next(each for each in rows.drafted.queries if each.query_id == query_id),
        variant,
        config.drafts,
        dict(zip(texts, encode(texts), strict=True)),
        None,
    )
    return ranked, context


def rows_sampled(sampled: Sequence[str]) -> Rows:
    return rows_of(user(8), telling, TASK, run_config(drafts={"sampled_prompts": sampled, "lead_words": 1}))


ROWS = rows_sampled(["rag_k"])


def texts_of(rows: Rows, prompt: str, is_greedy: bool) -> list[str]:
    """Return the answers to a prompt of the user's own query, from the requests themselves."""
    (request,) = [
        each.request for each in rows.asked if each.key == f'["u", "q", "{prompt}", {"0.0" if is_greedy else "1.0"}]'
    ]
    return telling(request)


def test_records_are_weighted_by_how_near_they_are_to_the_query():
    ranked, context = context_of(ROWS)
    assert context.history == ranked.eligible
    query, *inputs = encode([ranked.query.input, *(record.input for record in ranked.eligible)])
    raw = [math.exp(sum(a * b for a, b in zip(query, each, strict=True)) / NEAR_TEMPERATURE) for each in inputs]
    assert context.near_N == pytest.approx([each / sum(raw) for each in raw])


def test_retrieved_records_are_weighted_by_the_retriever_and_by_the_variants_head():
    ranked, _ = context_of(ROWS)
    scores = [each.score for each in ranked.retrieved]
    numbers = [float(each.record_id) for each in ranked.retrieved]  # the shared head's scores; the others' negated
    for variant, sign in {"personal": -1, "shuffled": -1, "shared": 1, "retrieved": 1}.items():
        _, context = context_of(ROWS, variant)
        assert [record.record_id for record in context.retrieved] == [each.record_id for each in ranked.retrieved]
        assert context.retrieved_weights == pytest.approx([each / sum(scores) for each in scores], abs=1e-5)
        raw = [math.exp(sign * each) for each in numbers]
        assert context.reranker_weights == pytest.approx([each / sum(raw) for each in raw])


def test_retrieved_records_that_share_no_word_with_the_query_weigh_the_same():
    rows = rows_of(user(4, query="unheard-of"), telling, TASK)
    assert context_of(rows)[1].retrieved_weights == pytest.approx([1 / 3] * 3)


def test_there_is_a_probe_for_each_retrieved_record_in_the_same_order():
    _, context = context_of(ROWS)
    expected = [
        telling(next(each.request for each in ROWS.asked if each.key == f'["u", "q", "{record.record_id}"]'))
        for record in context.retrieved
    ]
    assert [[answer.value] for answer in context.probes] == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_the_prompts_of_all_and_its_own_in_the_rerankers_place(variant: str):
    _, context = context_of(ROWS, variant)
    others = {"zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "pag_0", "pag_1", "pag_k"}
    assert set(context.greedy) == others | {"reranked"}
    for name in others:
        assert [context.greedy[name].value] == texts_of(ROWS, name, is_greedy=True)
    own = "rag_k" if variant == "retrieved" else variant
    assert [context.greedy["reranked"].value] == texts_of(ROWS, own, is_greedy=True)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sampled", [(), ("rag_k",), ("reranked",), ("lead_k", "rag_k")])
def test_samples_are_those_of_the_sampled_prompts(sampled: Sequence[str], variant: str):
    rows = rows_sampled(sampled)
    _, context = context_of(rows, variant, sampled=sampled)
    own = "rag_k" if variant == "retrieved" else variant
    prompts = [own if name == "reranked" else name for name in sampled]
    assert list(context.samples) == [text for name in prompts for text in texts_of(rows, name, is_greedy=False)]
    assert all(context.votes()[text] == 1 for text in context.samples)


def test_what_was_not_understood_is_neither_an_answer_nor_a_vote():
    def partly(request: Request) -> list[str]:
        return ["", "twice", "twice"] if request.temperature else [""]

    _, context = context_of(rows_of(user(8), partly, TASK))
    assert context.greedy == {}
    assert context.samples == ("twice", "twice")
    assert context.votes() == {"twice": 2}
    assert [answer.value for answer in context.probes] == [None] * 3


def test_a_pseudo_query_sees_neither_itself_nor_what_came_later():
    someone = user(8, dates=[3, 1, 4, 1, 5, None, 2, 6])
    rows = rows_of(
        someone, telling, TASK, run_config(probes={"num_pseudo_queries": 8}, drafts={"num_pseudo_queries": 8})
    )
    for query in rows.drafted.queries[1:]:
        own = next(record for record in someone.history if query.query_id == f"record:{record.record_id}")
        _, context = context_of(rows, query_id=query.query_id)
        expected = [
            record
            for record in someone.history
            if record != own and (own.date is None or record.date is None or record.date <= own.date)
        ]
        assert list(context.history) == expected
        assert len(context.near_N) == len(expected)


def test_without_history_there_is_nothing_to_compare_with():
    rows = rows_of(user(0), lambda request: ["" if request.max_tokens == PROFILE_TOKENS else "text"], TASK)
    _, context = context_of(rows)
    assert (context.history, context.retrieved, context.probes) == ((), (), ())
    assert len(context.near_N) == len(context.retrieved_weights) == len(context.reranker_weights) == 0
    assert set(context.greedy) == {"zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "reranked"}


def test_weights_of_very_large_scores_are_finite():
    scored = replace(
        ROWS.scored,
        groups=tuple(
            replace(group, candidates=tuple(replace(each, personal=1e4 * each.shared) for each in group.candidates))
            for group in ROWS.scored.groups
        ),
    )
    _, context = context_of(replace(ROWS, scored=scored))
    assert np.isfinite(context.reranker_weights).all()
    assert context.reranker_weights.sum() == pytest.approx(1)
