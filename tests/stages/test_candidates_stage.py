"""A whole run on preferences for which a generator drafts candidates, without Ray."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import in_process
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import run_config
from planted_preferences import ASKED, PREFERENCE, preferences
from pydantic import ValidationError

from hydra_ray import predict
from hydra_ray.adapt.label_model import read_label_model
from hydra_ray.adapt.own_labels import encoded_items
from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.adapt.own_records import own_queries
from hydra_ray.commands.drift.generations import read_line
from hydra_ray.commands.retry import clear_failures
from hydra_ray.commands.update import update_config
from hydra_ray.config import GeneratorConfig, RunConfig
from hydra_ray.errors import InputError
from hydra_ray.evaluate.text_report import report_text
from hydra_ray.forecast.forecast import make_forecast
from hydra_ray.forget.removal import forget_users
from hydra_ray.generate.engines import fake
from hydra_ray.lamp.choices import Choice
from hydra_ray.rows import (
    AnsweredQuery,
    AnsweredUser,
    Completion,
    DraftedUser,
    Failure,
    Query,
    Request,
    User,
    arrow_schema,
    from_table,
)
from hydra_ray.runs.root import bucket_key_of
from hydra_ray.scorer.base.encoder import CPU, open_encoder
from hydra_ray.scorer.heads.store import HeadStore
from hydra_ray.stages.answers import PREDICTIONS_TABLE
from hydra_ray.stages.own_heads import own_lineage
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.stages.tables import CANDIDATES, read_given_users, read_users
from hydra_ray.storage import read_part

DRAFTS = {"prompts": ["zero_shot", "rag_1", "rag_k"], "num_records": 2, "num_samples": 3, "temperatures": [0.7]}
TEACHERS = preferences(36, 8, 1, seed=0, is_new=False)
GIVEN = preferences(10, 6, 2, seed=1, is_new=True)
OPEN = preferences(12, 6, 0, seed=2, is_new=True)
OPEN_QUERIES = [{"id": f"open-{number}", "input": f"{ASKED} Number {number}, {ASKED}"} for number in range(2)]
ROWS = [*TEACHERS, *GIVEN, *({**row, "queries": OPEN_QUERIES} for row in OPEN)]
OPEN_IDS = {row["user_id"] for row in OPEN}


def config_at(root: Path, rows: list[dict[str, Any]], **sections: dict[str, Any]) -> RunConfig:
    root.mkdir(exist_ok=True)
    file = root.parent / f"{root.name}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    lamp = {"task": PREFERENCE.model_dump(exclude_defaults=True), "planted": None, "users_files": [str(file)]}
    return run_config(str(root), **{"lamp": lamp, "drafts": DRAFTS, **sections})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        return personalize(config_at(tmp_path_factory.mktemp("drafted"), ROWS))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that the generator is asked from here on."""
    in_process.install(monkeypatch)
    asked: list[Request] = []
    complete = fake.complete
    monkeypatch.setattr(fake, "complete", lambda request: asked.append(request) or complete(request))
    return asked


def drafted_users(plan: Plan) -> dict[str, DraftedUser]:
    parts = [read_part(each, arrow_schema(DraftedUser)) for each in plan.stage(CANDIDATES).parts(CANDIDATES)]
    return {row.user_id: row for part in parts for row in from_table(part, DraftedUser)}


def answered_queries(plan: Plan) -> Iterator[tuple[str, AnsweredQuery]]:
    for location in plan.answers.parts("answers"):
        for user in from_table(read_part(location, arrow_schema(AnsweredUser)), AnsweredUser):
            yield from ((user.user_id, query) for query in user.queries)


def answer_of(query: AnsweredQuery) -> str | None:
    return next(each.value for each in query.answers if each.system == "hydra")


def test_queries_have_the_distinct_drafts_as_candidates(finished: Plan):
    drafted = drafted_users(finished)
    assert set(drafted) == OPEN_IDS
    users = [user for bucket in finished.users.buckets for user in read_users(finished, bucket)]
    for user in (each for each in users if each.user_id in OPEN_IDS):
        for query, made in zip(user.queries, drafted[user.user_id].queries, strict=True):
            written = [draft.answer.value for draft in made.drafts]
            assert len(written) == 3 + 3
            assert Choice.of_text(query.input).candidates == tuple(dict.fromkeys(filter(None, written)))


def test_prompts_show_what_was_asked_and_chosen(requests: list[Request], tmp_path: Path):
    personalize(config_at(tmp_path / "again", ROWS), until=CANDIDATES)
    chosen = {row["user_id"]: {record["chosen"] for record in row["history"]} for row in OPEN}
    shown = [[each.content for each in request.messages if each.role == "assistant"] for request in requests]
    assert {len(each) for each in shown} == {0, 1, 2}
    for request, examples in zip(requests, shown, strict=True):
        assert set(examples) <= chosen[request.user_id]
        assert {each.content for each in request.messages if each.role == "user"} <= {
            ASKED,
            *(query["input"] for query in OPEN_QUERIES),
        }


def own_scores(plan: Plan, user: User, query: Query) -> list[float]:
    """What the stored own head, the model that all users teach and the encoder make of each candidate, in a plain
    loop; the text's own score and what is read of the records are the library's."""
    labels, model = read_label_model(plan.labeller.folder), read_own_model(plan.own_model.folder)
    assert model.is_on
    key, lineage = bucket_key_of(plan.config), own_lineage(plan.planned)
    head = HeadStore(stage=plan.stage("adapter.codes"), fold=0, bucket_key=key, lineage=lineage).read_head(user.user_id)
    assert head is not None
    base = plan.config.adapter.base
    vectors = encoded_items(plan.task, [user], open_encoder(base.encoder, base.max_text_tokens, CPU))
    asked = own_queries(plan.task, [user], [[query.input]], labels.text, vectors)
    weights = [sum(b * a for b, a in zip(row, head.code, strict=True)) for row in model.bases_FDR[-1].tolist()]
    candidates = Choice.of_text(query.input).candidates
    gains = []
    for candidate in candidates:
        position = model.space.components_QH @ (vectors[candidate] - model.space.means_H)
        gains.append(sum(z * weight for z, weight in zip(position.tolist(), weights, strict=True)))
    scores = [text + gain for text, gain in zip(asked.text_scores_N.tolist(), gains, strict=True)]
    total = math.log(sum(map(math.exp, scores)))
    mean = sum(gains) / len(gains)
    inputs = [
        [*read, gain - mean, score - total]
        for read, gain, score in zip(asked.inputs_NI.tolist(), gains, scores, strict=True)
    ]
    stack = model.with_FI[-1].tolist()
    return [sum(each * weight for each, weight in zip(row, stack, strict=True)) for row in inputs]


def test_the_chosen_draft_is_the_best_by_the_stored_own_head(finished: Plan):
    users = {user.user_id: user for bucket in finished.users.buckets for user in read_users(finished, bucket)}
    chosen = {(user_id, query.query_id): query for user_id, query in answered_queries(finished)}
    num_others = 0
    for user_id in OPEN_IDS:
        for query in users[user_id].queries:
            scores, candidates = own_scores(finished, users[user_id], query), Choice.of_text(query.input).candidates
            assert answer_of(chosen[user_id, query.query_id]) == candidates[scores.index(max(scores))]
            num_others += scores.index(max(scores)) > 0
    assert num_others > 0


def test_drafts_are_chosen_among_as_given_candidates_are(finished: Plan, requests: list[Request], tmp_path: Path):
    users = {user.user_id: user for bucket in finished.users.buckets for user in read_users(finished, bucket)}

    def with_candidates(row: dict[str, Any]) -> dict[str, Any]:
        queries = [
            {"id": each.query_id, "input": Choice.of_text(each.input).asked, "candidates": candidates}
            for each in users[row["user_id"]].queries
            if len(candidates := Choice.of_text(each.input).candidates) > 1
        ]
        return {**row, "queries": queries}

    rows = [with_candidates(row) if row["user_id"] in OPEN_IDS else row for row in ROWS]
    config = config_at(tmp_path / "given", rows)
    without = config.model_copy(update={"generator": GeneratorConfig(engine="none")})
    given = {(user_id, query.query_id): query for user_id, query in answered_queries(personalize(without))}
    drafted = {(user_id, query.query_id): query for user_id, query in answered_queries(finished)}
    assert not requests
    assert given.keys() <= drafted.keys()
    assert len(given) > len(GIVEN) * 2
    assert all(query == drafted[key] for key, query in given.items())


def test_queries_with_candidates_ask_nothing(requests: list[Request], tmp_path: Path):
    plan = personalize(config_at(tmp_path / "given", [*TEACHERS[:10], *GIVEN[:3]]))
    assert not requests
    assert not drafted_users(plan)
    assert Path(plan.run_folder, "metrics.json").exists()


def test_the_forecast_says_what_is_asked(requests: list[Request], tmp_path: Path):
    forecast = make_forecast(config_at(tmp_path / "forecast", ROWS), None)
    (volume,) = forecast.volumes
    assert (volume.name, volume.is_exact) == (CANDIDATES, True)
    personalize(config_at(tmp_path / "forecast", ROWS), until=CANDIDATES)
    assert volume.new.requests.value == len({request.request_id for request in requests})


def test_the_report_judges_what_has_a_target(finished: Plan):
    metrics = json.loads(Path(finished.run_folder, "metrics.json").read_text())
    assert metrics["num_queries"] == 2 * len(GIVEN)
    assert metrics["num_unjudged_queries"] == len(OPEN) * len(OPEN_QUERIES)
    assert "drafts candidates where a query brings none" in " ".join(report_text(metrics).split())


def test_a_run_without_targets_ends_without_a_report_and_predicts(requests: list[Request], tmp_path: Path):
    rows = [*TEACHERS[:10], {**OPEN[0], "queries": OPEN_QUERIES}]
    plan = personalize(config_at(tmp_path / "open", rows))
    assert not Path(plan.run_folder, "metrics.json").exists()
    predictions = pq.read_table(Path(plan.run_folder, PREDICTIONS_TABLE)).to_pylist()
    assert {row["query_id"] for row in predictions} == {each["id"] for each in OPEN_QUERIES}
    asked = pa.table({"user_id": [OPEN[0]["user_id"]] * 2, "input": ["A new story?", ASKED], "query_id": ["x", "y"]})
    before = len(requests)
    answers = {row["query_id"]: row for row in predict(plan.run_folder, asked).to_pylist()}
    assert len(requests) > before
    known = {str(number) for number in range(len(OPEN[0]["history"]))}
    for row in answers.values():
        assert row["answer"]
        assert row["error"] is None
        name, _, temperature = row["prompt"].partition(", temperature ")
        assert (name in DRAFTS["prompts"], float(temperature) in (0, 0.7)) == (True, True)
        assert set(row["record_ids"]) <= known
        assert len(row["record_ids"]) == {"zero_shot": 0, "rag_1": 1, "rag_k": 2}[name]
    before = len(requests)
    assert predict(plan.run_folder, asked).num_rows == 2
    assert len(requests) == before


def test_where_every_draft_fails_the_query_has_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    in_process.install(monkeypatch)
    whole = fake.complete
    failed = OPEN[0]["user_id"]

    def empty(request: Request) -> Completion:
        found = whole(request)
        texts = tuple(replace(each, text="  ") for each in found.generations)
        return replace(found, generations=texts) if request.user_id == failed else found

    monkeypatch.setattr(fake, "complete", empty)
    rows = [*TEACHERS[:10], *({**row, "queries": OPEN_QUERIES} for row in OPEN[:3])]
    plan = personalize(config_at(tmp_path / "failing", rows))
    for user_id, query in answered_queries(plan):
        values = {each.value for each in query.answers}
        assert (values == {None}) == (user_id == failed)
        assert all(each.value is None or each.value.strip() for each in query.answers)
    errors = [read_part(part, arrow_schema(Failure)) for part in plan.stage(CANDIDATES).parts("errors")]
    assert {row.kind for part in errors for row in from_table(part, Failure)} == {"empty"}
    assert {row["user_id"] for row in pq.read_table(Path(plan.run_folder, PREDICTIONS_TABLE)).to_pylist()} == {
        row["user_id"] for row in OPEN[1:3]
    }
    monkeypatch.setattr(fake, "complete", whole)
    clear_failures(plan, ["empty"])
    again = personalize(plan.config)
    assert all(answer_of(query) for _, query in answered_queries(again))


def test_one_draft_is_the_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    in_process.install(monkeypatch)
    whole = fake.complete
    same = "The one story."
    monkeypatch.setattr(
        fake,
        "complete",
        lambda request: replace(
            whole(request), generations=tuple(replace(each, text=same) for each in whole(request).generations)
        ),
    )
    plan = personalize(config_at(tmp_path / "one", [*TEACHERS[:10], {**OPEN[0], "queries": OPEN_QUERIES}]))
    assert {each.value for _, query in answered_queries(plan) for each in query.answers} == {same}


def test_people_come_back_say_what_they_think_and_are_forgotten(
    finished: Plan, requests: list[Request], tmp_path: Path
):
    root = tmp_path / "copy"
    shutil.copytree(finished.config.storage.root, root)
    run_folder, someone = str(root / "runs" / "test"), OPEN[-1]["user_id"]
    more = {"user_id": someone, "history": [{"id": "more", "input": ASKED, "chosen": "A.", "rejected": "B."}]}
    file = tmp_path / "today.jsonl"
    file.write_text(json.dumps({**more, "queries": [{"id": "n", "input": "What now?"}]}))
    updated = personalize(update_config(run_folder, [str(file)]))
    assert {request.user_id for request in requests} == {someone}
    ((user_id, query),) = answered_queries(updated)
    (written,) = drafted_users(updated)[someone].queries
    assert user_id == someone
    assert answer_of(query) in {draft.answer.value for draft in written.drafts}

    said = tmp_path / "said.jsonl"
    drafts = tuple(dict.fromkeys(draft.answer.value for draft in written.drafts if draft.answer.value))
    said.write_text(json.dumps({"user_id": someone, "query_id": "n", "chosen": drafts[-1]}))
    taught = personalize(update_config(run_folder, [str(said)], is_feedback=True))
    (user,) = [each for bucket in taught.users.buckets for each in read_given_users(taught, bucket)]
    learned = next(each for each in user.history if each.record_id.startswith("feedback:"))
    assert learned.output == drafts[-1]
    assert {*Choice.of_text(learned.input).candidates} == {*drafts}

    line = read_line(run_folder, lambda _: pytest.fail("vectors of drafts are kept, and not made again"))
    assert [each.run for each in line.generations] == ["test", updated.config.run, taught.config.run]

    (outcome,) = forget_users(str(root), [someone])
    assert outcome.is_removed_now
    left = [pq.read_table(each) for each in root.rglob("candidates/**/*.parquet")]
    assert left
    assert not {row for table in left for row in table["user_id"].to_pylist()} & {someone}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"input": ASKED, "target": "A."}, "has a target and no candidates"),
        ({"id": "q"}, "neither candidates to choose among nor an input"),
        ({"input": ASKED, "candidates": ["A."]}, "1 candidates, expected two or more"),
    ],
)
def test_a_query_that_nothing_can_be_drafted_for_is_refused(query: dict[str, Any], expected: str, tmp_path: Path):
    rows = [*TEACHERS[:10], {**OPEN[0], "queries": [query]}]
    with pytest.raises(InputError, match=expected):
        personalize(config_at(tmp_path / "wrong", rows, users={"max_rejected_fraction": 0.0}), until="users")


def test_without_a_generator_a_query_without_candidates_is_refused(tmp_path: Path):
    config = config_at(tmp_path / "none", ROWS, users={"max_rejected_fraction": 0.0})
    without = config.model_copy(update={"generator": GeneratorConfig(engine="none")})
    with pytest.raises(InputError, match="query 'open-0' has no candidates; without a generator"):
        personalize(without, until="users")


def test_users_who_were_read_for_a_generator_are_not_those_of_a_run_without(tmp_path: Path):
    config = config_at(tmp_path / "both", ROWS, users={"max_rejected_fraction": 0.0})
    personalize(config, until="users")
    without = config.model_copy(update={"generator": GeneratorConfig(engine="none"), "run": "without"})
    with pytest.raises(InputError, match="no candidates; without a generator"):
        personalize(without, until="users")


def test_a_reranked_prompt_is_refused(tmp_path: Path):
    with pytest.raises(ValidationError, match="no reranker"):
        config_at(tmp_path / "reranked", ROWS, drafts={"prompts": ["zero_shot", "reranked"]})
