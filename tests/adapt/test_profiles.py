from dataclasses import replace

import pytest
from builders import completion, rows_of, run_config, user

from hydra_ray.adapt.profiles import profile_requests, written_profiles
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.generate.prompt_forms import ABOUT_USER
from hydra_ray.generate.prompts import PROFILE_TOKENS, profile_messages
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import ProfiledUser, User

TASK = TASKS["planted"]
CONFIG = run_config().generator
NEW = user(4)
CROSS_FITTED = replace(user(4, is_new=False), user_id="cross-fitted", fold=2)
TRAINING = replace(user(4, is_new=False), user_id="training")
EMPTY = replace(user(0), user_id="empty")


def asked(*users: User):
    return list(profile_requests(users, TASK, fake_tokenizer(), CONFIG))


def test_every_evaluated_user_with_a_history_is_described_once():
    requests = asked(NEW, CROSS_FITTED, TRAINING, EMPTY)
    assert [each.key for each in requests] == ["u", "cross-fitted"]
    for each, someone in zip(requests, (NEW, CROSS_FITTED), strict=True):
        assert each.request.messages == profile_messages(TASK, someone.history, fake_tokenizer(), CONFIG)
        assert (each.request.num_samples, each.request.temperature) == (1, 0)
        assert each.request.max_tokens == PROFILE_TOKENS
        assert each.request.choices == ()


@pytest.mark.parametrize(
    ("text", "profile", "error"),
    [
        (" Likes war. ", "Likes war.", None),
        (" \n", None, "empty answer"),
        ("\u200b", None, "empty answer"),
        ("\ufffd \ufffd", None, "empty answer"),
    ],
)
def test_a_profile_is_what_was_written_or_there_is_none(text: str, profile: str | None, error: str | None):
    completions = {each.key: completion(each.request, text) for each in asked(NEW)}
    assert list(written_profiles([NEW, TRAINING], completions)) == [
        ProfiledUser(user_id="u", profile=profile, error=error),
        ProfiledUser(user_id="training", profile=None, error=None),
    ]


def test_a_failed_request_is_no_profile_but_an_error():
    completions = {
        each.key: replace(completion(each.request, ""), generations=(), error="too long") for each in asked(NEW)
    }
    assert list(written_profiles([NEW], completions)) == [ProfiledUser(user_id="u", profile=None, error="too long")]


def test_a_profile_stands_in_the_prompts_named_after_it_and_in_no_pseudo_querys():
    rows = rows_of(NEW, lambda request: ("Likes comedy.",))
    shown = [each for each in rows.asked if any(ABOUT_USER in message.content for message in each.request.messages)]
    assert {each.key for each in shown} == {f'["u", "q", "{name}", 0.0]' for name in ("pag_0", "pag_1", "pag_k")}
    assert all("Likes comedy." in each.request.messages[0].content for each in shown)


def test_without_a_profile_there_are_no_prompts_with_one():
    rows = rows_of(NEW, lambda request: ("",) if request.max_tokens == PROFILE_TOKENS else ("comedy",))
    assert rows.profiled.error == "empty answer"
    assert not {draft.prompt for query in rows.drafted.queries for draft in query.drafts} & {"pag_0", "pag_1", "pag_k"}
