from builders import completion, run_config, user

from hydra_ray.adapt.drafts import Ranked, draft_requests, label_drafts
from hydra_ray.config import RunConfig, Task
from hydra_ray.generate.fake_engine import fake_tokenizer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.records import (
    VARIANTS,
    CandidateScore,
    ProbedQuery,
    ProbedUser,
    ScoredGroup,
    ScoredUser,
    User,
)
from hydra_ray.retrieve.ranking import rank_queries

TASK = TASKS["planted"]
CONFIG = run_config()


def ranked_user(someone: User, config: RunConfig = CONFIG) -> Ranked:
    """Rows in which the personal head prefers low record ids, the shared one high ids, the shuffled one low again."""
    ranked = list(rank_queries(someone, config.probes, config.retrieve))
    probed = ProbedUser(
        user_id=someone.user_id,
        is_new=someone.is_new,
        queries=tuple(
            ProbedQuery(query_id=r.query.query_id, is_pseudo=r.is_pseudo, retrieved=r.retrieved, probes=())
            for r in ranked
        ),
    )
    groups = tuple(
        ScoredGroup(
            group_id=r.query.query_id,
            query_id=r.query.query_id,
            variant="personal",
            is_pseudo=r.is_pseudo,
            candidates=tuple(
                CandidateScore(
                    candidate_id=each.record_id,
                    personal=-float(each.record_id),
                    shared=float(each.record_id),
                    shuffled=-float(each.record_id),
                )
                for each in r.retrieved
            ),
        )
        for r in ranked
        if r.retrieved
    )
    scored = ScoredUser(user_id=someone.user_id, is_new=someone.is_new, head="shared", groups=groups)
    return someone, probed, scored


def drafted(someone: User, *texts: str, task: Task = TASK):
    ranked = ranked_user(someone)
    requests = list(draft_requests([ranked], task, fake_tokenizer(), CONFIG))
    completions = {request.request_id: completion(request, *texts) for request in requests}
    (row,) = label_drafts([ranked], completions, task, CONFIG)
    return requests, row


def test_an_evaluated_query_has_every_systems_prompt_and_a_learned_one_only_what_it_teaches():
    _, row = drafted(user(8), "comedy")
    for query in row.queries:
        prompts = {prompt.prompt for prompt in query.prompts}
        if query.is_pseudo:
            assert prompts == {"rag_k", "personal"}
        else:
            assert prompts == {"zero_shot", "rag_1", "rag_k", *VARIANTS}


def test_heads_choose_the_records_of_their_prompts():
    _, row = drafted(user(8), "comedy")
    own = next(query for query in row.queries if not query.is_pseudo)
    records = {prompt.prompt: prompt.record_ids for prompt in own.prompts}
    assert records["personal"] == records["shuffled"]
    assert list(records["personal"]) == sorted(records["personal"], key=int)
    assert list(records["shared"]) == sorted(records["shared"], key=int, reverse=True)
    assert records["zero_shot"] == ()
    assert records["rag_1"] == records["rag_k"][:1]


def test_equal_prompts_are_asked_once_and_answer_for_all():
    requests, row = drafted(user(8), "comedy", "romance", "fantasy")
    assert len({request.request_id for request in requests}) == len(requests)
    own = next(query for query in row.queries if not query.is_pseudo)
    answers = {
        variant: [draft.answer.value for draft in own.drafts if draft.prompt == variant]
        for variant in ("personal", "shuffled")
    }
    assert answers["personal"] == answers["shuffled"] == ["comedy", "romance", "fantasy"]


def test_samples_are_drawn_at_the_temperature_and_the_rest_is_greedy():
    requests, row = drafted(user(8), "comedy")
    assert {(r.num_samples, r.temperature) for r in requests} == {(1, 0.0), (CONFIG.drafts.num_samples, 1.0)}
    for query in row.queries:
        for variant in VARIANTS:
            samples = [draft.sample for draft in query.drafts if draft.prompt == variant]
            assert samples in ([], list(range(CONFIG.drafts.num_samples)))


def test_the_target_of_an_evaluated_query_labels_nothing():
    for is_new in (True, False):
        _, row = drafted(user(8, is_new=is_new), "comedy")
        own = next(query for query in row.queries if not query.is_pseudo)
        assert all((draft.quality is None) == is_new for draft in own.drafts)


def test_only_the_first_pseudo_queries_are_drafted():
    config = run_config(drafts={"num_pseudo_queries": 1})
    ranked = ranked_user(user(8), config)
    requests = draft_requests([ranked], TASK, fake_tokenizer(), config)
    completions = {request.request_id: completion(request, "comedy") for request in requests}
    (row,) = label_drafts([ranked], completions, TASK, config)
    assert [q.query_id for q in row.queries if q.is_pseudo] == [q.query_id for q in ranked[1].queries if q.is_pseudo][
        :1
    ]


def test_a_user_without_history_is_asked_without_examples():
    requests, row = drafted(user(0), "comedy")
    assert all(len(request.messages) == 2 for request in requests)
    assert len(row.queries) == 1
