"""Drafts as candidates: what the generator is shown for a query without candidates, and what becomes of its answers."""

import json

import pytest
from builders import completion, run_config
from planted_preferences import PREFERENCE

from hydra_ray.adapt.candidates import candidate_requests, drafted_candidates, open_users, retrieve_chosen
from hydra_ray.config import RunConfig
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.choices import Choice, Ranking, distinct_drafts, with_candidates
from hydra_ray.rows import Asked, Completion, DraftedUser, Query, Record, User

EGG = Choice(asked="How to boil an egg?", candidates=("Eight minutes.", "Choose a rice cooker.")).text
RATED = Ranking(asked="How to cook rice?", levels=(("In a pot.", "In a steamer."), ("Egg, egg, egg.",))).text
DRAFTS = {"prompts": ["zero_shot", "rag_1", "rag_k"], "num_records": 2, "num_samples": 3, "temperatures": [0.5, 0.9]}


def asked_user(*queries: Query, history: bool = True) -> User:
    records = (
        Record(record_id="egg", input=EGG, output="Eight minutes."),
        Record(record_id="rice", input=RATED, output="In a pot."),
        Record(record_id="bare", input=Choice(asked="", candidates=("A.", "B.")).text, output="A."),
    )
    return User(user_id="ann", is_new=True, history=records if history else (), queries=queries)


def open_query(query_id: str, asked: str) -> Query:
    return Query(query_id=query_id, input=Choice(asked=asked, candidates=()).text, target=None)


GIVEN = Query(query_id="given", input=EGG, target=None)
ASKED = asked_user(open_query("rice again", "Which rice to cook?"), GIVEN)


def config_of(**drafts: object) -> RunConfig:
    lamp = {"task": PREFERENCE.model_dump(exclude_defaults=True), "planted": None, "users_files": ["/nowhere"]}
    return run_config(lamp=lamp, drafts=DRAFTS | drafts)


def requests_of(user: User, config: RunConfig) -> list[Asked]:
    rows = [(each, retrieve_chosen(each, config, None)) for each in open_users([user])]
    return list(candidate_requests(rows, PREFERENCE, fake_tokenizer(), config))


def drafted(user: User, config: RunConfig, completions: dict[str, Completion]) -> DraftedUser:
    rows = [(each, retrieve_chosen(each, config, None)) for each in open_users([user])]
    (row,) = drafted_candidates(rows, completions, PREFERENCE, config)
    return row


def test_only_queries_without_candidates_are_open():
    (user,) = open_users([ASKED, asked_user(GIVEN)])
    assert [(each.query_id, each.input) for each in user.queries] == [("rice again", "Which rice to cook?")]
    assert [(each.input, each.output) for each in user.history] == [
        ("How to boil an egg?", "Eight minutes."),
        ("How to cook rice?", "In a pot."),
        ("", "A."),
    ]


def test_records_are_found_by_what_was_asked_and_not_by_their_candidates():
    (user,) = open_users([ASKED])
    (query,) = retrieve_chosen(user, config_of(), None).queries
    assert len(query.retrieved) == 2
    assert query.retrieved[0].record_id == "rice"


def test_a_prompt_is_answered_greedily_and_sampled_ones_at_each_temperature():
    found = {tuple(json.loads(each.key)[2:]): each.request for each in requests_of(ASKED, config_of())}
    assert {key: each.num_samples for key, each in found.items()} == {
        ("zero_shot", 0.0): 1,
        ("rag_1", 0.0): 1,
        ("rag_k", 0.0): 1,
        ("rag_k", 0.5): 3,
        ("rag_k", 0.9): 3,
    }
    shown = [(each.role, each.content) for each in found["rag_1", 0.0].messages]
    assert shown == [
        ("system", PREFERENCE.instruction),
        ("user", "How to cook rice?"),
        ("assistant", "In a pot."),
        ("user", "Which rice to cook?"),
    ]
    assert [each.role for each in found["zero_shot", 0.0].messages] == ["system", "user"]


def test_without_records_all_greedy_prompts_are_one_request():
    user = asked_user(open_query("q", "Anything?"), history=False)
    requests = requests_of(user, config_of(sampled_prompts=[]))
    assert len(requests) == 3
    assert len({each.request.request_id for each in requests}) == 1


def test_candidates_are_the_distinct_drafts_in_order_and_failures_are_none():
    config = config_of(temperatures=[0.5])
    said = {"zero_shot": ["Basmati."], "rag_1": ["Jasmine."], "rag_k": ["Basmati."]}
    samples = ["Jasmine.", " ", "Arborio."]
    completions = {
        each.key: completion(each.request, *(samples if each.request.temperature else said[json.loads(each.key)[2]]))
        for each in requests_of(ASKED, config)
    }
    row = drafted(ASKED, config, completions)
    (query,) = row.queries
    assert [(text, each.prompt, each.sample) for text, each in distinct_drafts(query).items()] == [
        ("Basmati.", "zero_shot", 0),
        ("Jasmine.", "rag_1", 0),
        ("Arborio.", "rag_k", 2),
    ]
    assert len(query.drafts) == 3 + 3
    filled = with_candidates(ASKED, row)
    assert Choice.of_text(filled.queries[0].input) == Choice(
        asked="Which rice to cook?", candidates=("Basmati.", "Jasmine.", "Arborio.")
    )
    assert filled.queries[1] == GIVEN
    assert filled.history == ASKED.history


@pytest.mark.parametrize("method", ["recency", "random"])
def test_any_retriever_may_choose_the_records(method: str):
    config = config_of().model_copy(update={"retrieve": run_config(retrieve={"method": method}).retrieve})
    (user,) = open_users([ASKED])
    (query,) = retrieve_chosen(user, config, None).queries
    assert len({each.record_id for each in query.retrieved}) == 2
