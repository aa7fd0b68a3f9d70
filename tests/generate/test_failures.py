from dataclasses import replace

import pytest
from builders import run_config, user
from hypothesis import given
from hypothesis import strategies as st

from hydra_ray.adapt.profiles import profile_requests, written_profiles
from hydra_ray.errors import GenerationError
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.failures import TRANSIENT, FailureKind, count_kinds, failures_of, require_answers
from hydra_ray.generate.parsing import parse_answer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Generation

TASK = TASKS["planted"]
SECRET = "my neighbour wrote this"


def generated(text: str, finish_reason: str) -> Completion:
    generation = Generation(text=text, num_tokens=2, finish_reason=finish_reason)
    return Completion(request_id="r", user_id="u", prompt_tokens=9, generations=(generation,), error=None)


def failed(kind: FailureKind, request_id: str = "r", attempts: int = 1) -> Completion:
    return Completion(
        request_id=request_id,
        user_id="u",
        prompt_tokens=9,
        generations=(),
        error="no answer",
        failure=kind,
        attempts=attempts,
    )


def failures(*completions: Completion):
    return list(failures_of(completions, lambda generation: parse_answer(TASK, generation).error))


@pytest.mark.parametrize(
    ("text", "finish_reason", "kind"),
    [
        ("comedy", "stop", None),
        ("comedy", "length", None),
        (SECRET, "stop", FailureKind.UNPARSABLE),
        (SECRET, "length", FailureKind.CUT),
        ("comedy", "content_filter", FailureKind.CONTENT_FILTER),
        ("", "content_filter", FailureKind.CONTENT_FILTER),
        (" \n", "stop", FailureKind.EMPTY),
        ("", "length", FailureKind.EMPTY),
    ],
)
def test_the_kind_of_a_failure_follows_from_the_text_and_how_it_ended(text, finish_reason, kind):
    assert [row.kind for row in failures(generated(text, finish_reason))] == ([] if kind is None else [kind])


def test_a_request_that_failed_is_one_row_and_each_useless_sample_another():
    several = replace(
        generated("", "stop"),
        request_id="s",
        generations=tuple(
            Generation(text=text, num_tokens=1, finish_reason="stop") for text in ("comedy", SECRET, "romance", "")
        ),
    )
    rows = failures(failed(FailureKind.TIMEOUT, attempts=4), several)
    assert [(row.request_id, row.sample, row.kind, row.attempts) for row in rows] == [
        ("r", None, "timeout", 4),
        ("s", 1, "unparsable", 1),
        ("s", 3, "empty", 1),
    ]
    assert count_kinds(rows) == {"failed.timeout": 1, "failed.unparsable": 1, "failed.empty": 1}


def test_a_request_that_serves_several_purposes_fails_once():
    assert len(failures(*[failed(FailureKind.ENGINE)] * 3)) == 1


def test_no_row_tells_what_the_generator_wrote():
    assert all(SECRET not in str(row) for row in failures(generated(SECRET, "stop"), generated(SECRET, "length")))


def test_what_ends_alike_however_often_it_is_asked_is_not_transient():
    assert {FailureKind.REFUSED, FailureKind.TOO_LONG, FailureKind.UNPARSABLE, FailureKind.CUT}.isdisjoint(TRANSIENT)
    assert FailureKind.TIMEOUT in TRANSIENT


@given(st.integers(0, 3000), st.floats(0, 1), st.floats(0, 1))
def test_a_finished_stage_is_refused_exactly_if_more_failed_than_allowed(num_answers, share, allowed):
    num_failed = int(share * num_answers)
    counters = {"answers": num_answers, "failed": num_failed}
    if num_failed > allowed * num_answers:
        with pytest.raises(GenerationError, match="stage probes"):
            require_answers("probes", "/root/errors", counters, allowed, is_over=True)
    else:
        require_answers("probes", "/root/errors", counters, allowed, is_over=True)


def test_a_stage_is_stopped_before_its_end_only_after_many_answers():
    require_answers("probes", "/root/errors", {"answers": 999, "failed": 999}, 0.5, is_over=False)
    with pytest.raises(GenerationError):
        require_answers("probes", "/root/errors", {"answers": 1000, "failed": 999}, 0.5, is_over=False)


def test_the_error_says_how_much_failed_why_most_did_where_to_look_and_what_to_do():
    counters = {"answers": 60, "failed": 31, "failed.timeout": 20, "failed.unparsable": 11}
    with pytest.raises(GenerationError) as raised:
        require_answers("probes", "/root/errors", counters, 0.5, is_over=True)
    words = ("stage probes", "31 of 60", "52%", "timeout 20, unparsable 11", "/root/errors", "hydra-ray retry")
    assert all(each in str(raised.value) for each in (*words, "generator.max_failed_fraction=0.5"))


def test_the_error_names_the_settings_where_most_answers_are_unfinished_thoughts():
    counters = {"answers": 60, "failed": 40, "failed.unfinished_thought": 30, "failed.cut": 10}
    with pytest.raises(GenerationError, match=r"generator.thinking_tokens.*generator.chat_template_kwargs"):
        require_answers("probes", "/root/errors", counters, 0.5, is_over=True)


@pytest.mark.parametrize("broken", [failed(FailureKind.TIMEOUT), generated("likes x", "content_filter")])
def test_a_profile_that_failed_is_no_profile(broken):
    (asked,) = profile_requests([user()], TASK, fake_tokenizer(), run_config().generator)
    (row,) = written_profiles([user()], {asked.key: broken})
    assert row.profile is None
    assert row.error
