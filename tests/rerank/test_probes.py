from dataclasses import replace

from builders import completion, run_config, user

from hydra_ray.config import RunConfig
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.probes import label_probes, probe_requests, retrieve_records
from hydra_ray.retrieve.ranking import rank_queries
from hydra_ray.rows import Asked, ProbedUser, Request, User

TASK = TASKS["planted"]
CONFIG = run_config()


def retrieved_of(someone: User, config: RunConfig = CONFIG) -> list[tuple[User, ProbedUser]]:
    return [(someone, retrieve_records(someone, TASK, config, None))]


def asked_of(someone: User, config: RunConfig = CONFIG) -> list[Asked]:
    return list(probe_requests(retrieved_of(someone, config), TASK, fake_tokenizer(), config))


def requests_of(someone: User, config: RunConfig = CONFIG) -> list[Request]:
    return [each.request for each in asked_of(someone, config)]


def test_what_is_retrieved_is_ranked_and_not_probed():
    row = retrieve_records(user(8), TASK, CONFIG, None)
    ranked = list(rank_queries(user(8), TASK, CONFIG.probes, CONFIG.retrieve))
    assert [(each.query_id, each.is_pseudo, each.retrieved) for each in row.queries] == [
        (each.query.query_id, each.is_pseudo, each.retrieved) for each in ranked
    ]
    assert all(each.probes == () for each in row.queries)


def test_every_retrieved_record_of_every_query_is_probed_once():
    for is_new in (True, False):
        asked = asked_of(user(8, is_new=is_new))
        assert len(asked) == 4 * CONFIG.probes.num_records
        assert len({each.key for each in asked}) == len(asked)
        assert all(each.request.temperature == 0 and each.request.num_samples == 1 for each in asked)


def test_a_probe_shows_exactly_one_record_and_never_the_query_itself():
    for request in requests_of(user(8)):
        roles = [message.role for message in request.messages]
        assert roles == ["system", "user", "assistant", "user"]
        assert request.messages[1].content != request.messages[-1].content


def test_a_closed_task_constrains_the_generator_unless_told_otherwise():
    assert requests_of(user(8))[0].choices == TASK.labels
    assert requests_of(user(8), run_config(generator={"is_constrained": False}))[0].choices == ()


def test_quality_says_whether_the_answer_was_right():
    someone = user(8)
    completions = {each.key: completion(each.request, "comedy") for each in asked_of(someone)}
    (row,) = label_probes(retrieved_of(someone), completions, TASK)
    targets = {f"record:{record.record_id}": record.output for record in someone.history}
    pseudo = [query for query in row.queries if query.is_pseudo]
    assert len(pseudo) == CONFIG.probes.num_pseudo_queries
    for query in pseudo:
        assert [probe.record_id for probe in query.probes] == [each.record_id for each in query.retrieved]
        for probe in query.probes:
            assert probe.quality == float(targets[query.query_id] == "comedy")


def test_a_failed_generation_is_an_error_and_has_no_quality():
    someone = user(8)
    completions = {
        each.key: replace(completion(each.request, "comedy"), generations=(), error="too long")
        for each in asked_of(someone)
    }
    (row,) = label_probes(retrieved_of(someone), completions, TASK)
    probes = [probe for query in row.queries for probe in query.probes]
    assert probes
    assert all(probe.quality is None and probe.answer.error == "too long" for probe in probes)


def test_a_new_users_own_query_is_probed_but_never_evaluated():
    for is_new in (True, False):
        someone = user(8, is_new=is_new)
        completions = {each.key: completion(each.request, "comedy") for each in asked_of(someone)}
        (row,) = label_probes(retrieved_of(someone), completions, TASK)
        own = next(query for query in row.queries if not query.is_pseudo)
        assert len(own.probes) == len(own.retrieved) == CONFIG.probes.num_records
        assert {probe.quality for probe in own.probes} == ({None} if is_new else {1.0})


def test_a_constrained_answer_has_room_for_any_spelling_of_the_longest_label():
    longest = max(len(label.encode()) for label in TASK.labels)
    assert all(request.max_tokens > longest for request in requests_of(user(8)))
    free = requests_of(user(8), run_config(generator={"is_constrained": False}))
    assert all(request.max_tokens == TASK.max_tokens for request in free)
