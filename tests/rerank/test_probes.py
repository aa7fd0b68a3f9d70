from builders import completion, run_config, user

from hydra_ray.config import RunConfig
from hydra_ray.generate.fake_engine import fake_tokenizer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.records import Completion, User
from hydra_ray.rerank.probes import label_probes, probe_requests

TASK = TASKS["planted"]
CONFIG = run_config()


def requests_of(someone: User, config: RunConfig = CONFIG):
    return list(probe_requests([someone], TASK, fake_tokenizer(), config))


def test_every_retrieved_record_of_every_query_to_learn_from_is_probed_once():
    for is_new, num_queries in ((True, 3), (False, 4)):
        requests = requests_of(user(8, is_new=is_new))
        assert len(requests) == num_queries * CONFIG.probes.num_records
        assert len({request.request_id for request in requests}) == len(requests)
        assert all(request.temperature == 0 and request.num_samples == 1 for request in requests)


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
    requests = requests_of(someone)
    completions = {r.request_id: completion(r, "comedy") for r in requests}
    (row,) = label_probes([someone], completions, TASK, CONFIG)
    targets = {f"record:{record.record_id}": record.output for record in someone.history}
    for query in row.queries:
        for probe in query.probes:
            assert probe.quality == float(targets[query.query_id] == "comedy")


def test_a_failed_generation_is_an_error_and_has_no_quality():
    someone = user(8)
    completions = {
        r.request_id: Completion(request_id=r.request_id, prompt_tokens=0, generations=(), error="too long")
        for r in requests_of(someone)
    }
    (row,) = label_probes([someone], completions, TASK, CONFIG)
    probes = [probe for query in row.queries for probe in query.probes]
    assert probes
    assert all(probe.quality is None and probe.answer.error == "too long" for probe in probes)


def test_an_evaluated_query_is_retrieved_for_but_not_probed():
    someone = user(8)
    completions = {r.request_id: completion(r, "comedy") for r in requests_of(someone)}
    (row,) = label_probes([someone], completions, TASK, CONFIG)
    own = next(query for query in row.queries if not query.is_pseudo)
    assert len(own.retrieved) == CONFIG.probes.num_records
    assert own.probes == ()


def test_a_constrained_answer_has_room_for_any_spelling_of_the_longest_label():
    longest = max(len(label.encode()) for label in TASK.labels)
    assert all(request.max_tokens > longest for request in requests_of(user(8)))
    free = requests_of(user(8), run_config(generator={"is_constrained": False}))
    assert all(request.max_tokens == TASK.max_tokens for request in free)
