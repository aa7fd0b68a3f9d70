import asyncio

import pytest

from hydra_ray.generate.engines import call_progress
from hydra_ray.generate.engines.call_progress import Answers, Attempts
from hydra_ray.generate.failures import FailureKind
from hydra_ray.rows import Completion


def completion(name: str, failure: FailureKind | None = None) -> Completion:
    return Completion(
        request_id=name,
        user_id="u",
        prompt_tokens=1,
        generations=(),
        error=None if failure is None else "refused",
        failure=failure,
        attempts=1,
    )


def test_a_wait_that_another_call_was_asked_for_uses_up_no_deadline(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(call_progress.time, "monotonic", lambda: now[0])
    attempts = Attempts()
    attempts.excuse(50)  # before the first call nothing is counted anyway
    assert attempts.begin(60) == 60
    now[0] += 20
    assert attempts.left(60) == 40
    now[0] += 500
    attempts.excuse(500)
    assert attempts.begin(60) == 40
    assert attempts.number == 2


def test_a_doubtful_refusal_is_stored_only_if_an_answer_follows():
    kept: list[Completion] = []
    answers = Answers(kept.extend)
    answers.hold(completion("a", FailureKind.REFUSED))
    asyncio.run(answers.flush())
    assert kept == []
    answers.add(completion("b"))
    answers.release()
    answers.hold(completion("c", FailureKind.REFUSED))
    asyncio.run(answers.flush())
    assert [(each.request_id, each.failure) for each in kept] == [("b", None), ("a", FailureKind.REFUSED)]
    answers.end_doubt()
    assert answers.all[-1] == completion("c", FailureKind.UNAVAILABLE)
    assert len(kept) == 2


def test_refusals_alone_are_not_stored_but_other_failures_are():
    kept: list[Completion] = []
    answers = Answers(kept.extend)
    answers.add(completion("a", FailureKind.REFUSED))
    answers.add(completion("b", FailureKind.CONTENT_FILTER))
    asyncio.run(answers.flush(has_refusals=False))
    assert [each.request_id for each in kept] == ["b"]
    assert [each.request_id for each in answers.all] == ["a", "b"]
