"""Feedback on drafts of a text task: judgements, from the drafts of a run to the heads of its updates and refreshes."""

import random
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from builders import run_config
from own_files import written
from rouge_score import rouge_scorer

from hydra_ray.commands.refresh import refresh_run
from hydra_ray.commands.update import update_run
from hydra_ray.errors import NothingNewError
from hydra_ray.forget.removal import forget_users
from hydra_ray.generate.engines import fake
from hydra_ray.lamp.judgements import JUDGEMENTS
from hydra_ray.rows import (
    AnsweredUser,
    Group,
    JudgingUser,
    Rejected,
    Request,
    ScoredUser,
    User,
    UserExamples,
    arrow_schema,
    from_table,
)
from hydra_ray.scorer.heads.store import scores_table
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.storage import exists, read_part

pytestmark = pytest.mark.usefixtures("without_ray")
Row = dict[str, Any]
WORDS = (
    "amber birch cedar delta ember fjord grove haven inlet jetty knoll ledge marsh north ocean plain quay ridge".split()  # noqa: SIM905
)
DRAFTS = {"prompts": ["zero_shot", "rag_k"], "num_records": 2, "num_samples": 4, "temperatures": [0.7]}
NUM_ASKED = 5


def told(user_id: str, num_queries: int, seed: int, *, is_new: bool = True, has_motto: bool | None = None) -> Row:
    """A user whose titles are beginnings of their texts or one motto; by default, some of either and no targets."""
    rng = random.Random(f"{user_id} {seed}")
    motto = " ".join(random.Random(user_id).sample(WORDS, 5))
    texts = [" ".join(rng.sample(WORDS, 9)) for _ in range(5 + num_queries)]

    def title(number: int) -> str:
        return motto if (number % 2 if has_motto is None else has_motto) else " ".join(texts[number].split()[:5])

    history = [{"id": f"{seed}r{n}", "input": text, "output": title(n)} for n, text in enumerate(texts[:5])]
    queries: list[Row] = [{"id": f"{seed}q{n}", "input": text} for n, text in enumerate(texts[5:])]
    if has_motto is not None:
        queries = [{**each, "target": title(5 + n)} for n, each in enumerate(queries)]
    return {"user_id": user_id, "is_new": is_new, "history": history, "queries": queries}


TEACHERS = [told(f"teacher-{n}", 1, 0, is_new=False, has_motto=bool(n % 2)) for n in range(24)]
ASKED = [told("ann", NUM_ASKED, 0), told("bob", NUM_ASKED, 0), told("eve", NUM_ASKED, 0, has_motto=False)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("judged")
    lamp = {"planted": None, "task": "LaMP_5", "users_files": [written(folder / "users.jsonl", [*TEACHERS, *ASKED])]}
    scorer = {
        "base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8},
        "heads": {"kinds": ["lowrank"]},  # whether own heads pay is not asked here
    }
    return personalize(run_config(str(folder / "root"), lamp=lamp, drafts=DRAFTS, reranker=scorer, adapter=scorer))


@pytest.fixture
def run_folder(finished: Plan, tmp_path: Path) -> str:
    """A copy of the finished run, for the test alone."""
    shutil.copytree(finished.config.storage.root, tmp_path / "root")
    return f"{tmp_path}/root/runs/{finished.config.run}"


def rows_of(plan: Plan, stage: str, table: str, row_type: type) -> dict[str, Any]:
    locations = [each for each in plan.stage(stage).parts(table) if exists(each)]
    parts = [read_part(location, arrow_schema(row_type)) for location in locations]
    return {row.user_id: row for part in parts for row in from_table(part, row_type)}


def groups_of(plan: Plan, user_id: str) -> dict[str, Group]:
    groups = rows_of(plan, "adapter.examples", "examples", UserExamples)[user_id].groups
    return {group.group_id: group for group in groups}


def drafts_of(plan: Plan, user_id: str) -> dict[str, Group]:
    """The drafts that the user's own head chose among, by query."""
    return {
        group.query_id: group
        for group in groups_of(plan, user_id).values()
        if group.variant == "personal" and not group.is_pseudo
    }


def judging(plan: Plan) -> dict[str, JudgingUser]:
    return rows_of(plan, "users", JUDGEMENTS, JudgingUser)


def overlap(text: str, query: str) -> float:
    """Fraction of a draft's words that are the query's."""
    words = text.split()
    return fmean(word in query.split() for word in words)


def nearest(group: Group) -> str:
    """The draft with most words of its query."""
    return max((each.text for each in group.candidates), key=lambda text: (overlap(text, group.query), text))


def farthest(group: Group) -> str:
    return min((each.text for each in group.candidates), key=lambda text: (overlap(text, group.query), text))


def answer_of(plan: Plan, user_id: str, query_id: str) -> str:
    answered = rows_of(plan, "answers", "answers", AnsweredUser)[user_id]
    query = next(each for each in answered.queries if each.query_id == query_id)
    return str(next(each.value for each in query.answers if each.system == "hydra"))


def say(run_folder: str, file: Path, *rows: Row) -> Plan:
    return update_run(run_folder, [written(file, rows)], is_feedback=True).plan


def judged_of(plan: Plan, user_id: str) -> dict[str, Group]:
    """The judged drafts that heads learn from, by the input of their query."""
    groups = groups_of(plan, user_id).values()
    return {group.query: group for group in groups if group.query_id.startswith("feedback:")}


def lead_of(plan: Plan, user_id: str) -> float:
    """By how much the best draft of a pseudo-query is better than the mean of the others, in a plain loop."""
    leads: list[float] = []
    for group in groups_of(plan, user_id).values():
        if group.query_id.startswith("record:"):
            qualities = [float(each.quality or 0) for each in group.candidates]
            best = qualities.index(max(qualities))
            leads.append(qualities[best] - fmean(each for place, each in enumerate(qualities) if place != best))
    return fmean(leads)


def test_a_preference_for_a_draft_is_a_group_to_learn_from_and_asks_for_nothing(
    finished: Plan, run_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Request] = []
    monkeypatch.setattr(fake, "complete", asked.append)
    drafts = drafts_of(finished, "ann")
    plan = say(
        run_folder,
        tmp_path / "said.jsonl",
        {"user_id": "ann", "query_id": "0q0", "chosen": nearest(drafts["0q0"])},
        {"user_id": "ann", "query_id": "0q1", "chosen": 1},
        {"user_id": "bob", "query_id": "0q0", "thumb": "up"},
        {"user_id": "bob", "query_id": "0q1", "thumb": "down"},
    )
    assert not asked
    counters = plan.users.manifest()["counters"]
    right = [
        answer_of(finished, "ann", "0q0") == nearest(drafts["0q0"]),
        answer_of(finished, "ann", "0q1") == drafts["0q1"].candidates[1].text,
        True,
        False,
    ]
    assert (counters["judged_answers"], counters["preferred_answers"]) == (4, sum(right))
    judged, lead = judged_of(plan, "ann"), lead_of(plan, "ann")
    assert lead > 0
    for query_id, chosen in (("0q0", nearest(drafts["0q0"])), ("0q1", drafts["0q1"].candidates[1].text)):
        kept, group = drafts[query_id], judged[drafts[query_id].query]
        assert [(each.text, each.plain) for each in group.candidates] == [
            (each.text, each.plain) for each in kept.candidates
        ]
        qualities = [each.quality for each in group.candidates]
        assert qualities == pytest.approx([lead if each.text == chosen else 0 for each in group.candidates])
    judged, drafts = judged_of(plan, "bob"), drafts_of(finished, "bob")
    praised, blamed = (judged[drafts[query_id].query].candidates for query_id in ("0q0", "0q1"))
    assert [each.text for each in praised if each.quality] == [answer_of(finished, "bob", "0q0")]
    assert [each.text for each in blamed if not each.quality] == [answer_of(finished, "bob", "0q1")]
    users = rows_of(plan, "users", "users", User)
    assert {len(each.history) for each in users.values()} == {5}  # nothing that a generator wrote


def test_an_own_text_is_a_record_and_judges_the_drafts_by_the_metric(finished: Plan, run_folder: str, tmp_path: Path):
    row = {"user_id": "ann", "query_id": "0q2", "edited": " ".join(WORDS)}
    plan = say(run_folder, tmp_path / "said.jsonl", row)
    assert [each.output for each in rows_of(plan, "users", "users", User)["ann"].history[5:]] == [row["edited"]]
    group = judged_of(plan, "ann")[drafts_of(finished, "ann")["0q2"].query]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    assert [each.quality for each in group.candidates] == pytest.approx(
        [scorer.score(row["edited"], each.text)["rougeL"].fmeasure for each in group.candidates]
    )


def test_own_heads_follow_what_is_preferred(finished: Plan, run_folder: str, tmp_path: Path):
    """Of two lives of one person, who prefers drafts with the query's words in one and without them in the other, the
    former's head thinks the more of a draft the more of these it has; in a judged group each was fitted without it."""
    shutil.copytree(finished.config.storage.root, tmp_path / "other")
    scores: list[dict[tuple[str, str], float]] = []
    for folder, pick in ((run_folder, nearest), (f"{tmp_path}/other/runs/{finished.config.run}", farthest)):
        groups = drafts_of(finished, "ann").items()
        rows = [{"user_id": "ann", "query_id": query_id, "chosen": pick(group)} for query_id, group in groups]
        plan = say(folder, tmp_path / "said.jsonl", *rows)
        inputs = {group.query_id: group.query for group in judged_of(plan, "ann").values()}
        scores.append(
            {
                (inputs[group.query_id], each.candidate_id): each.personal
                for group in rows_of(plan, "adapter.heads", scores_table(0), ScoredUser)["ann"].groups
                if group.query_id in inputs
                for each in group.candidates
            }
        )
    of_near, of_far = scores
    assert of_near.keys() == of_far.keys()
    added = [of_near[each] - of_far[each] for each in of_near]
    assert np.corrcoef(added, [overlap(text, query) for query, text in of_near])[0, 1] > 0.5


def test_judgements_stay_with_their_user_until_they_are_replaced_or_withdrawn(
    finished: Plan, run_folder: str, tmp_path: Path
):
    said = [{"user_id": "ann", "query_id": each, "chosen": 0} for each in ("0q0", "0q1")]
    first = say(run_folder, tmp_path / "first.jsonl", *said)
    with pytest.raises(NothingNewError):
        say(run_folder, tmp_path / "again.jsonl", *said[:1])
    new = written(tmp_path / "new.jsonl", [told("ann", 1, 2)])
    second = update_run(run_folder, [new]).plan
    assert judging(second) == judging(first)
    third = say(run_folder, tmp_path / "third.jsonl", {"user_id": "ann", "query_id": "0q0", "chosen": 1})
    kept, replaced = ({each.judgement_id: each for each in judging(plan)["ann"].judgements} for plan in (first, third))
    assert kept.keys() == replaced.keys()
    name, other = sorted(kept)
    assert replaced[other] == kept[other]
    assert [each.quality for each in replaced[name].drafts[:2]] == [0, 1]
    assert [each.quality for each in kept[name].drafts[:2]] == [1, 0]
    gone = [{"user_id": "ann", "is_new": True, "history": [{"id": name, "op": "delete"}], "queries": []}]
    fourth = update_run(run_folder, [written(tmp_path / "gone.jsonl", gone)]).plan
    assert [each.judgement_id for each in judging(fourth)["ann"].judgements] == [other]


def test_a_refreshed_run_learns_from_judgements_and_does_not_evaluate_their_queries(run_folder: str, tmp_path: Path):
    rows = [{"user_id": user_id, "query_id": "0q0", "chosen": 0} for user_id in ("ann", "eve", "bob")]
    say(run_folder, tmp_path / "said.jsonl", *rows)
    forget_users(str(tmp_path / "root"), ["bob"])
    plan = refresh_run(run_folder).plan
    assert judging(plan).keys() == {"ann", "eve"}
    groups = groups_of(plan, "eve").values()
    assert [group.query_id.partition(":")[0] for group in groups if group.query_id.startswith("feedback:")] == [
        "feedback"
    ]
    assert "0q0" not in {group.query_id for group in groups}
    assert {group.query_id for group in groups} >= {f"0q{place}" for place in range(1, NUM_ASKED)}


def test_forgetting_reaches_judgements(finished: Plan, run_folder: str, tmp_path: Path):
    rows = [{"user_id": user_id, "query_id": "0q0", "chosen": 0} for user_id in ("ann", "bob")]
    plan = say(run_folder, tmp_path / "said.jsonl", *rows)
    assert judging(plan).keys() == {"ann", "bob"}
    forget_users(str(tmp_path / "root"), ["ann"])
    assert judging(plan).keys() == {"bob"}


def test_what_says_nothing_of_a_kept_draft_is_refused_alone(run_folder: str, tmp_path: Path):
    plan = say(
        run_folder,
        tmp_path / "said.jsonl",
        *({"user_id": "ann", "query_id": f"0q{place}", "chosen": 0} for place in range(NUM_ASKED)),
        *({"user_id": "eve", "query_id": f"0q{place}", "thumb": "up"} for place in range(NUM_ASKED)),
        {"user_id": "bob", "query_id": "0q0", "chosen": "a text that nobody drafted"},
    )
    (rejected,) = [
        row
        for location in plan.users.parts("rejected")
        for row in from_table(read_part(location, arrow_schema(Rejected)), Rejected)
    ]
    assert (rejected.sample_id, rejected.position) == ("bob", 2 * NUM_ASKED)
    assert "is none of the" in rejected.reason
