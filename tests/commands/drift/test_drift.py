"""What updates show of a run's shared parts: a planted drift is found, and a stream without any shows none."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from builders import encode
from planted_line import RATING, Rule, Taught, beginning, raters, taught_by, with_rule
from scipy.special import softmax
from sklearn.metrics import log_loss

from hydra_ray.adapt.own_labels import UNTAUGHT, encoded_items, own_fold
from hydra_ray.adapt.own_records import own_queries, own_records
from hydra_ray.commands.as_json import as_json
from hydra_ray.commands.drift.changes import MIN_USERS, UserMeans
from hydra_ray.commands.drift.drift import NUM_PRESENT, Drift, drift_of
from hydra_ray.commands.drift.drift_text import drift_lines
from hydra_ray.commands.drift.generations import ANSWERS, GAIN, Generation, StoredLine
from hydra_ray.commands.drift.record_losses import (
    OWN,
    RECORDS,
    SYSTEMS,
    TEXT,
    Returned,
    Summed,
    first_losses,
    later_losses,
)
from hydra_ray.config import RunConfig
from hydra_ray.lamp.field_checks import pseudo_query_id
from hydra_ray.rows import User

NAMES = [f"user {number}" for number in range(60)]
PEOPLE = raters(NAMES, 24)
"""Users with everything that they ever rate."""


@pytest.fixture(scope="module")
def taught() -> Taught:
    return taught_by(beginning(PEOPLE))


def start_of(taught: Taught) -> UserMeans:
    return UserMeans(first_losses(RATING, taught.users, taught.rows(taught.users)))


def returned(taught: Taught, users: Sequence[User]) -> list[Returned]:
    before = {user.user_id: user for user in taught.users}
    return [
        Returned(user=replace(user, is_new=True), before=before[user.user_id], fold=own_fold(before[user.user_id]))
        for user in users
    ]


def losses_of(taught: Taught, users: Sequence[User]) -> list[Summed]:
    came = returned(taught, users)
    vectors = encoded_items(RATING, [each.user for each in came], encode)
    return list(later_losses(RATING, came, taught.labels, taught.model, vectors))


def line_of(start: UserMeans, *updates: UserMeans, is_of_records: bool = True) -> StoredLine:
    names = SYSTEMS if is_of_records else ANSWERS
    config = RunConfig.model_construct(run="stars")
    generations = [Generation(run="stars", users=start)]
    generations += [Generation(run=f"stars+{place}", users=each) for place, each in enumerate(updates)]
    return StoredLine(
        config=config,
        task=RATING,
        names=names,
        deciding=names[2] if is_of_records else GAIN,
        is_of_records=is_of_records,
        generations=tuple(generations),
    )


def drift_after(taught: Taught, rule: Rule) -> Drift:
    """What one update shows in which ratings have become others by a rule."""
    return drift_of(line_of(start_of(taught), UserMeans(losses_of(taught, with_rule(PEOPLE, rule)))))


def test_ratings_turned_round_are_found_and_a_refresh_is_advised(taught: Taught):
    found = drift_after(taught, lambda stars: 6 - stars)
    assert found.verdict == "refresh"
    assert found.loss is not None
    assert found.loss.low is not None
    assert found.loss.low > 0.3
    for name in SYSTEMS:
        change = found.updates[0].figure(name).change
        assert change is not None
        assert change.is_above_zero
    text = "\n".join(drift_lines(found))
    assert text.startswith(f"REFRESH: shared parts lose {found.loss.value:+.4f} [")
    assert "nats a record against the start, in 60 users" in text


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_without_drift_shows_none(taught: Taught, seed: int):
    chosen = [PEOPLE[place] for place in np.random.default_rng(seed).choice(len(PEOPLE), 30, replace=False)]
    strangers = raters([f"stranger {seed} {number}" for number in range(20)], 14, is_new=True)
    added = first_losses(RATING, strangers, taught.rows(strangers))
    found = drift_of(line_of(start_of(taught), UserMeans([*losses_of(taught, chosen), *added])))
    assert found.verdict == "no sign of drift"
    assert found.present.num_users == 50
    assert found.loss is not None
    assert abs(found.loss.value) < 0.15
    assert "NO SIGN OF DRIFT in 50 users" in "\n".join(drift_lines(found))


def test_the_same_for_dated_records(taught: Taught):
    people = raters(NAMES, 24, dates=True)
    dated = taught_by(beginning(people))
    for rule, verdict in ((lambda stars: stars, "no sign of drift"), (lambda stars: 6 - stars, "refresh")):
        later = UserMeans(losses_of(dated, with_rule(people, rule)))
        assert later.num == 10 * len(people)
        assert drift_of(line_of(start_of(dated), later)).verdict == verdict


def test_the_start_is_what_is_stored_of_held_out_records(taught: Taught):
    rows = taught.rows(taught.users)
    user = taught.users[3]
    logs = {each.query_id: each for each in rows[user.user_id].queries}
    asked = [logs[pseudo_query_id(record.record_id)] for record in user.history]
    (found,) = first_losses(RATING, [user], rows)
    right = [record.output for record in user.history]
    expected = [
        log_loss(right, np.exp([getattr(each, name) for each in asked]), labels=list(RATING.labels))
        for name in ("by_text", "by_records", "by_own")
    ]
    assert found.num == len(user.history)
    assert found.sums_S / found.num == pytest.approx(expected, rel=1e-6)


def test_of_dated_records_the_start_has_the_newest_quarter(taught: Taught):
    (user,) = raters(["dated"], 13, is_new=True, dates=True)
    user = replace(user, history=user.history[::-1])
    rows = taught.rows([user])
    logs = {each.query_id: each for each in rows["dated"].queries}
    (found,) = first_losses(RATING, [user], rows)
    newest = sorted(user.history, key=lambda record: record.date or 0)[-3:]
    expected = [-logs[pseudo_query_id(each.record_id)].by_text[int(each.output) - 1] for each in newest]
    assert (found.num, found.sums_S[0]) == (3, pytest.approx(sum(expected)))


def test_later_records_are_asked_from_those_that_were_known(taught: Taught):
    """A query of the user as of the start is asked from all records, and so is each later record."""
    user = PEOPLE[5]
    (came,) = returned(taught, [user])
    (found,) = losses_of(taught, [user])
    later = user.history[len(came.before.history) :]
    vectors = encoded_items(RATING, [user], encode)
    asked = own_queries(RATING, [came.before], [[each.input for each in later]], taught.labels.text, vectors)
    fold_U = np.array([came.fold])
    records = own_records(RATING, [came.before], taught.labels.text, vectors, lambda _: came.fold)
    codes_UR = taught.model.fit_codes(RATING, records).codes_UR
    own_N = taught.model.scores(RATING, asked, taught.model.deviations(fold_U, codes_UR))
    logs = [
        np.log(softmax(asked.text_scores_N.reshape(-1, 5), axis=1)),
        *(taught.model.log_probabilities(RATING, asked, fold_U, each).reshape(-1, 5) for each in (None, own_N)),
    ]
    right = [each.output for each in later]
    expected = [log_loss(right, np.exp(each), labels=list(RATING.labels)) for each in logs]
    assert found.num == len(later)
    assert found.sums_S / found.num == pytest.approx(expected, rel=1e-4)


def test_a_records_answer_changes_no_other_records_loss(taught: Taught):
    user = PEOPLE[7]
    other = replace(user.history[-1], output="5" if user.history[-1].output != "5" else "1")
    changed = replace(user, history=(*user.history[:-1], other))
    (one,), (two,) = losses_of(taught, [user]), losses_of(taught, [changed])
    alone = replace(user, history=(*user.history[:14], user.history[-1]))
    changed_alone = replace(user, history=(*user.history[:14], other))
    (last,), (other_last,) = losses_of(taught, [alone]), losses_of(taught, [changed_alone])
    assert one.sums_S - last.sums_S == pytest.approx(two.sums_S - other_last.sums_S)


def test_nothing_new_gives_no_figure_and_replaced_records_do(taught: Taught):
    user = taught.users[0]
    assert losses_of(taught, [user]) == []
    replaced = replace(user, history=(replace(user.history[0], input="zzz"), *user.history[1:]))
    (found,) = losses_of(taught, [replaced])
    assert found.num == 1


def answered(gain: float, num_users: int, seed: int, names: str = "user") -> UserMeans:
    """Qualities of answers, HYDRA's above RAG's by `gain`."""
    rng = np.random.default_rng(seed)
    rag_U, noise_U = rng.uniform(size=num_users), rng.normal(size=num_users) * 0.05
    return UserMeans(
        Summed(user_id=f"{names} {place}", num=2, sums_S=2 * np.array([rag, rag, rag + gain + noise, gain + noise]))
        for place, (rag, noise) in enumerate(zip(rag_U.tolist(), noise_U.tolist(), strict=True))
    )


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "no sign of drift"), (0.0, "refresh"), (0.2, "no sign of drift")])
def test_answers_drift_where_the_gain_over_rag_falls(gain: float, verdict: str):
    found = drift_of(line_of(answered(0.1, 50, 0), answered(gain, 40, 1), is_of_records=False))
    assert found.verdict == verdict
    assert found.loss is not None
    assert found.loss.value == pytest.approx(0.1 - gain, abs=0.03)
    assert found.loss.low is not None
    assert found.loss.high is not None
    assert found.loss.low < found.loss.value < found.loss.high
    assert "of the gain over RAG against the start" in "\n".join(drift_lines(found))


def test_without_any_figures_nothing_is_claimed():
    found = drift_of(line_of(answered(0.1, 50, 0), UserMeans([]), is_of_records=False))
    assert (found.verdict, found.loss) == ("unknown", None)
    assert "Hand in targets" in "\n".join(drift_lines(found))
    assert drift_of(line_of(answered(0.1, 50, 0), is_of_records=False)).verdict == "too few"


def test_too_few_users_are_told_of(taught: Taught):
    few = UserMeans(losses_of(taught, PEOPLE[: MIN_USERS - 1]))
    found = drift_of(line_of(start_of(taught), few))
    assert (found.verdict, found.loss) == ("too few", None)
    text = "\n".join(drift_lines(found))
    assert text.startswith(f"TOO FEW: {MIN_USERS - 1} users in the updates")
    assert "too few users" in text
    assert all(each.change is None for each in found.updates[0].figures)
    assert drift_of(line_of(start_of(taught))).verdict == "too few"


def test_the_present_are_the_newest_updates_with_enough_users():
    start = answered(0.1, 50, 0)
    updates = [answered(0.1, NUM_PRESENT // 2, seed, names=f"user {seed}") for seed in range(4)]
    found = drift_of(line_of(start, *updates, is_of_records=False))
    assert found.present.runs == ("stars+2", "stars+3")
    assert found.present.num_users == NUM_PRESENT
    assert "the present: stars+2, stars+3" in "\n".join(drift_lines(found))


def test_json_has_the_verdict_and_every_generation(taught: Taught):
    found = drift_after(taught, lambda stars: 6 - stars)
    told = json.loads(as_json(found))
    assert told["verdict"] == "refresh"
    assert told["loss"] == asdict(found)["loss"]
    assert [each["name"] for each in told["updates"][0]["figures"]] == [TEXT, RECORDS, OWN]


def test_who_came_with_an_update_is_scored_as_untaught(taught: Taught):
    (stranger,) = raters(["stranger"], 24, is_new=True)
    came = Returned(user=stranger, before=beginning([stranger])[0], fold=UNTAUGHT)
    vectors = encoded_items(RATING, [stranger], encode)
    (found,) = later_losses(RATING, [came], taught.labels, taught.model, vectors)
    other = replace(came, fold=0)
    (by_fold,) = later_losses(RATING, [other], taught.labels, taught.model, vectors)
    assert found.sums_S[0] == by_fold.sums_S[0]
    assert found.sums_S[2] != by_fold.sums_S[2]
