from dataclasses import replace
from typing import Any

import pytest
from builders import reranker_scores, run_config, user
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.adapt.prompting import Prompt, prompts_of
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.probes import retrieve_records
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries
from hydra_ray.rows import User

TASK = TASKS["planted"]
BASELINES = {"zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "personal", "shared", "shuffled"}
PROFILES = {"pag_0", "pag_1", "pag_k"}


def prompts(
    someone: User, is_pseudo: bool = False, has_profile: bool = False, **drafts: Any
) -> tuple[RankedQuery, dict[str, Prompt]]:
    """The first query of a kind, and its prompts by name."""
    config = run_config(drafts=drafts, answers={"is_gated": False})
    probed = retrieve_records(someone, TASK, config, None)
    groups = {group.query_id: group for group in reranker_scores(someone, probed).groups}
    ranked = next(each for each in restore_queries(someone, probed) if each.is_pseudo == is_pseudo)
    found = list(prompts_of(someone, ranked, groups.get(ranked.query.query_id), has_profile, config.drafts))
    assert len({prompt.name for prompt in found}) == len(found)
    return ranked, {prompt.name: prompt for prompt in found}


TRAINING = user(8, is_new=False)
CROSS_FITTED = replace(TRAINING, fold=0)


@pytest.mark.parametrize("someone", [user(8), CROSS_FITTED])
@pytest.mark.parametrize("asked", [(), ("rag_1",)])
def test_an_evaluated_query_has_the_prompt_of_every_baseline_and_control_greedily(someone: User, asked):
    _, found = prompts(someone, prompts=asked, has_profile=True)
    assert set(found) == BASELINES | PROFILES
    assert all(prompt.temperatures[0] == 0 for prompt in found.values())
    assert {name for name, prompt in found.items() if prompt.has_profile} == PROFILES


@pytest.mark.parametrize(("someone", "is_pseudo"), [(user(8), True), (CROSS_FITTED, True), (TRAINING, False)])
def test_another_query_has_only_the_prompts_whose_answers_are_drafts(someone: User, is_pseudo: bool):
    asked = ("zero_shot", "rag_2", "reranked")
    _, found = prompts(someone, is_pseudo, has_profile=True, prompts=asked, sampled_prompts=())
    assert {name: prompt.temperatures for name, prompt in found.items()} == {
        "zero_shot": (0,),
        "rag_2": (0,),
        "personal": (0,),
    }


def test_the_lead_prompt_is_a_draft_where_configured_and_never_a_baseline():
    assert "lead_k" not in prompts(user(8))[1]
    ranked, found = prompts(user(8), prompts=("lead_k",), num_records=3, lead_words=7)
    assert found["lead_k"].max_words == 7
    assert found["lead_k"].record_ids == tuple(each.record_id for each in ranked.retrieved[:3])
    assert {prompt.max_words for name, prompt in found.items() if name != "lead_k"} == {None}


def test_without_a_profile_no_prompt_wants_one():
    assert set(prompts(user(8))[1]) == BASELINES


@pytest.mark.parametrize(
    ("sampled", "evaluated", "other"),
    [
        (("rag_k",), {"rag_k"}, {"rag_k"}),
        (("lead_k", "rag_k"), {"lead_k", "rag_k"}, {"lead_k", "rag_k"}),
        (("reranked",), {"rag_k", "personal", "shared", "shuffled"}, {"personal"}),
        ((), {"rag_k"}, set()),
    ],
)
def test_sampled_prompts_are_sampled_at_every_temperature_and_rag_for_its_vote(sampled, evaluated, other):
    def sampled_of(someone: User) -> set[str]:
        _, found = prompts(someone, prompts=("rag_1",), sampled_prompts=sampled, temperatures=[0.5, 1.0])
        sampled_names = {name for name, prompt in found.items() if prompt.temperatures[-2:] == (0.5, 1.0)}
        assert all(prompt.temperatures == (0,) for name, prompt in found.items() if name not in sampled_names)
        return sampled_names

    assert sampled_of(user(8)) == evaluated
    assert sampled_of(TRAINING) == other


def test_a_prompt_that_is_only_sampled_has_no_greedy_answer():
    _, found = prompts(TRAINING, prompts=(), sampled_prompts=("reranked",), temperatures=[0.7])
    assert {name: prompt.temperatures for name, prompt in found.items()} == {"personal": (0.7,)}


def test_each_prompt_has_the_records_that_its_name_says():
    ranked, found = prompts(user(8), has_profile=True)
    retrieved = tuple(each.record_id for each in ranked.retrieved)
    ascending = tuple(sorted(retrieved, key=int))
    expected = {
        "zero_shot": (),
        "rag_1": retrieved[:1],
        "rag_2": retrieved[:2],
        "rag_k": retrieved[:2],
        "pag_0": (),
        "pag_1": retrieved[:1],
        "pag_k": retrieved[:2],
        "personal": ascending[:2],
        "shuffled": ascending[:2],
        "shared": ascending[:-3:-1],
    }
    assert {name: prompt.record_ids for name, prompt in found.items() if name != "random_k"} == expected


@given(dates=st.lists(st.none() | st.integers(0, 3), min_size=8, max_size=8), num_records=st.integers(1, 3))
def test_no_prompt_of_a_pseudo_query_shows_its_own_record_or_a_later_one(dates: list[int | None], num_records: int):
    someone = user(8, dates=dates)
    names = ["zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "reranked"]
    config = run_config(drafts={"prompts": names, "num_records": num_records})
    probed = retrieve_records(someone, TASK, config, None)
    groups = {group.query_id: group for group in reranker_scores(someone, probed).groups}
    records = {record.record_id: record for record in someone.history}
    for ranked in restore_queries(someone, probed):
        if ranked.is_pseudo:
            own = records[ranked.query.query_id.removeprefix("record:")]
            for prompt in prompts_of(someone, ranked, groups.get(ranked.query.query_id), True, config.drafts):
                for each in prompt.record_ids:
                    date = records[each].date
                    assert each != own.record_id
                    assert own.date is None or date is None or date <= own.date


def test_random_records_are_a_sample_without_repeats_that_only_user_and_query_decide():
    chosen = {}
    for user_id in map(str, range(300)):
        _, found = prompts(replace(user(4), user_id=user_id))
        chosen[user_id] = found["random_k"].record_ids
        assert len(set(chosen[user_id])) == 2
    assert chosen["7"] == prompts(replace(user(4), user_id="7"))[1]["random_k"].record_ids
    counts = [sum(str(n) in ids for ids in chosen.values()) for n in range(4)]
    assert all(110 < count < 190 for count in counts)  # each is in half of the prompts


def test_without_history_every_prompt_is_without_records():
    _, found = prompts(user(0), has_profile=True)
    assert {prompt.record_ids for prompt in found.values()} == {()}
