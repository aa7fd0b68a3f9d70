"""Batches against a simulated endpoint: whatever goes wrong, each request is answered, or failed, and paid once."""

import logging
from pathlib import Path
from random import Random
from typing import Any

import pytest
from batch_server import EXPIRED, BatchServer, Fault, LineResult, Rules
from batch_stage import ASKER, Stage, requests_of
from damage import flipped

from hydra_ray.errors import ConfigError, EndpointError, StorageError
from hydra_ray.generate.batches.records import batches_of
from hydra_ray.generate.completion_store import batched
from hydra_ray.generate.failures import FailureKind
from hydra_ray.storage import list_tree


def left_behind(stage: Stage, server: BatchServer) -> list[str]:
    """Texts and records that should be gone: at the endpoint, and on disk."""
    return [*server.files, *list_tree(batches_of(stage.store).folder)]


def failed_line(line: LineResult, status: int, code: str, message: str = "no") -> LineResult:
    error = {"error": {"code": code, "type": "invalid_request_error", "message": message}}
    return {**line, "response": {"status_code": status, "request_id": "r", "body": error}}


def test_all_requests_are_answered_and_paid_once_and_nothing_is_left_behind(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    session = stage.answer()
    assert stage.num_left == 0
    assert session.faults == {}
    assert len(server.paid) == server.paid.total() == 10
    assert left_behind(stage, server) == []


def test_answers_out_of_order_are_those_of_their_requests(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)

    def told(_: int, line: LineResult) -> list[LineResult | str]:
        line["response"]["body"]["choices"][0]["message"]["content"] = line["custom_id"]
        return [line]

    server.rules.replace = told
    session = stage.answer()
    answers = stage.answers()
    for bucket, requests in stage.buckets.items():
        for request in requests:
            (custom_id,) = session.form.custom_ids(bucket, request)
            assert answers[request.request_id].generations[0].text == custom_id


def test_a_line_holds_no_user_and_no_name_from_which_one_can_be_guessed(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"keeps_files": True})
    stage.answer()
    sent = b"".join(content for name, content in server.files.values() if name.startswith("hydra-ray"))
    assert sent.count(b"\n") == 10
    for request in stage.buckets[0]:
        assert request.user_id.encode() not in sent
        assert request.request_id.encode() not in sent


def test_samples_of_several_lines_are_one_answer(server: BatchServer, tmp_path: Path):
    buckets = {0: requests_of(range(3), num_samples=5)}
    stage = Stage(tmp_path, server.url, buckets, max_samples_per_call=2)
    stage.answer()
    assert server.paid.total() == 9
    assert {len(each.generations) for each in stage.answers().values()} == {5}


def test_a_file_is_as_large_as_allowed_and_requests_are_split_among_files(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"max_requests_per_file": 4})
    stage.answer()
    assert [len(each.lines) for each in server.batches.values()] == [4, 4, 2]
    assert stage.num_left == 0
    by_bytes = Stage(tmp_path / "bytes", server.url, batch={"max_file_bytes": 700})
    by_bytes.answer()
    assert by_bytes.num_left == 0
    assert len(server.batches) > 6


def test_a_request_larger_than_a_file_may_be_is_a_configuration_error(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"max_file_bytes": 10})
    with pytest.raises(ConfigError, match="raise max_requests_per_file and max_file_bytes"):
        stage.answer()
    assert server.batches == {}


def test_lines_of_an_expired_batch_are_kept_and_the_rest_is_asked_again(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.rules = Rules(status="expired", answered=lambda number: number % 2 == 0)
    stage.answer()
    assert [len(each.lines) for each in server.batches.values()] == [10, 5, 2]
    assert stage.num_left == 1
    assert server.paid.total() == len(server.paid)
    assert left_behind(stage, server) == []


def test_requests_without_an_answer_in_the_last_round_fail_so_that_retry_repeats_them(
    server: BatchServer, tmp_path: Path
):
    stage = Stage(tmp_path, server.url, batch={"max_rounds": 2})
    server.rules = Rules(status="expired", answered=lambda _: False)
    session = stage.answer()
    assert len(server.batches) == 2
    assert stage.num_left == 10
    kinds = {each.kind for each in session.faults.values()}
    assert kinds == {FailureKind.TIMEOUT}
    assert all(EXPIRED["code"] in each.message for each in session.faults.values())


def test_lines_that_are_missing_are_asked_again(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.rules.answered = lambda number: number > 2 or len(server.batches) > 1
    stage.answer()
    assert stage.num_left == 0
    assert server.paid.total() == 10


def test_a_line_that_failed_for_a_while_is_asked_again(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)

    def busy(number: int, line: LineResult) -> list[LineResult | str]:
        is_first = len(server.batches) == 1 and number < 3
        return [failed_line(line, 429 if number else 500, "rate_limit_exceeded") if is_first else line]

    server.rules.replace = busy
    stage.answer()
    assert stage.num_left == 0
    assert [len(each.lines) for each in server.batches.values()] == [10, 3]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "context_length_exceeded", FailureKind.TOO_LONG),
        (400, "content_filter", FailureKind.CONTENT_FILTER),
        (400, "odd", FailureKind.REFUSED),
    ],
)
def test_a_line_that_is_refused_is_kept_as_for_a_single_call(
    server: BatchServer, tmp_path: Path, status: int, code: str, kind: FailureKind, caplog: pytest.LogCaptureFixture
):
    stage = Stage(tmp_path, server.url)
    server.rules.replace = lambda number, line: [failed_line(line, status, code, "secret") if number == 4 else line]
    stage.answer()
    failures = [each for each in stage.answers().values() if each.error is not None]
    assert [each.failure for each in failures] == [kind]
    assert "secret" not in f"{failures[0].error}{caplog.text}"
    assert len(server.batches) == 1


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (402, "insufficient_balance")])
def test_a_refusal_of_every_request_stops_the_run_and_keeps_what_was_answered(
    server: BatchServer, tmp_path: Path, status: int, code: str
):
    stage = Stage(tmp_path, server.url)
    server.rules.replace = lambda number, line: [failed_line(line, status, code) if number > 5 else line]
    with pytest.raises(EndpointError, match=code):
        stage.answer()
    assert stage.num_left == 4
    server.rules = Rules()
    stage.answer()
    assert stage.num_left == 0
    assert left_behind(stage, server) == []


def test_a_form_that_the_endpoint_refuses_is_named_and_not_kept(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.rules.replace = lambda _, line: [failed_line(line, 400, "odd")]
    with pytest.raises(EndpointError, match="has_log_probabilities"):
        stage.answer()
    assert stage.answers() == {}
    assert left_behind(stage, server) == []


def test_replies_that_cannot_be_used_stop_the_run_before_they_are_paid_again(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, {0: requests_of(range(5), num_samples=3)})

    def one_choice(_: int, line: LineResult) -> list[LineResult | str]:
        del line["response"]["body"]["choices"][1:]
        return [line]

    server.rules.replace = one_choice
    with pytest.raises(EndpointError, match="expected 3"):
        stage.answer()
    assert len(server.batches) == 1


def test_odd_lines_are_not_used_and_counted(server: BatchServer, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    stage = Stage(tmp_path, server.url)

    def odd(number: int, line: LineResult) -> list[LineResult | str]:
        other = {**line, "custom_id": "00000-" + "0" * 32 + "-0"}
        nobody = {**line, "custom_id": "secret"}
        far = {**line, "custom_id": "99999-" + "0" * 32 + "-0"}
        wrong = {**line, "response": {"status_code": 500, "body": None}}
        return [wrong, line, line, other, nobody, far, '{"custom_id": "00', "", "[1]"] if number == 0 else [line]

    server.rules.replace = odd
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 1
    assert "2 repeated, 3 unknown, 2 unreadable" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "result",
    [
        {"response": None, "error": None},
        {"response": "", "error": {"code": ["x"], "message": "secret"}},
        {"response": {"status_code": "x", "body": [1]}},
        {"response": {"status_code": True, "body": {"choices": 3}}},
        {"response": {"status_code": 200, "body": None}},
        {"response": {"status_code": 599, "body": "secret"}},
        {},
    ],
)
def test_a_line_of_any_form_costs_no_other_answer(server: BatchServer, tmp_path: Path, result: dict[str, Any]):
    stage = Stage(tmp_path, server.url, batch={"max_rounds": 1})
    server.rules.replace = lambda number, line: [
        {"id": "i", "custom_id": line["custom_id"], **result} if number == 0 else line
    ]
    session = stage.answer()
    assert stage.num_left == 1
    assert [each.is_final for each in session.faults.values()] == [False]


def test_a_cut_off_download_is_repeated(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.fail("content", Fault(cuts=True), Fault(hangs_up=True))
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 1


@pytest.mark.parametrize(
    "call", ["upload", "list_files", "create", "list_batches", "retrieve", "content", "delete_file"]
)
@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=429), Fault(hangs_up=True)])
def test_a_call_that_fails_for_a_while_is_repeated_and_nothing_is_paid_twice(
    server: BatchServer, tmp_path: Path, call: str, fault: Fault
):
    stage = Stage(tmp_path, server.url)
    server.fail(call, fault, fault)
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 1
    assert server.paid.total() == 10
    assert left_behind(stage, server) == []


def test_an_endpoint_that_is_away_for_longer_than_all_attempts_loses_no_batch(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.fail("retrieve", *[Fault(status=503)] * 30)
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 1


def test_an_endpoint_that_is_away_before_anything_is_submitted_stops_the_run(tmp_path: Path):
    stage = Stage(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match="at 4 attempts, the last one: ConnectError"):
        stage.answer()


def test_a_batch_that_is_not_found_by_its_id_for_a_while_is_not_asked_again(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.rules.num_polls = 3
    server.fail("retrieve", Fault(status=404), Fault(status=404))
    stage.answer()
    assert len(server.batches) == 1


def test_a_refused_file_stops_the_run_with_its_code_and_line(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    server.rules.error = {"code": "invalid_json_line", "message": "secret", "line": 3}
    with pytest.raises(EndpointError, match="invalid_json_line in line 3") as raised:
        stage.answer()
    assert "secret" not in str(raised.value)
    assert left_behind(stage, server) == []
    stage.answer()
    assert stage.num_left == 0


def test_batches_wait_where_too_many_tokens_are_enqueued(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"max_requests_per_file": 4})
    server.rules = Rules(max_enqueued=10, num_polls=2)
    stage.answer()
    assert stage.num_left == 0
    assert server.paid.total() == 10
    refused = [each for each in server.batches.values() if each.fields["status"] == "failed"]
    assert refused
    assert left_behind(stage, server) == []


def test_a_limit_of_enqueued_tokens_of_ones_own_is_never_exceeded(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"max_enqueued_tokens": 50})
    server.rules = Rules(max_enqueued=900, num_polls=2)
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) > 1
    assert all(each.fields["status"] == "completed" for each in server.batches.values())


def test_a_batch_is_found_among_many_pages_of_others(server: BatchServer, tmp_path: Path):
    Stage(tmp_path / "other", server.url, batch={"max_requests_per_file": 1}).answer()
    assert len(server.batches) == 10
    server.is_oldest_first = True  # ours is on the last page
    server.fail("create", Fault(hangs_up=True))
    stage = Stage(tmp_path, server.url)
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 11


def test_a_batch_that_somebody_cancels_stops_the_run_and_the_next_run_asks_the_rest(
    server: BatchServer, tmp_path: Path
):
    stage = Stage(tmp_path, server.url)
    server.rules = Rules(status="cancelled", answered=lambda number: number < 4)
    with pytest.raises(EndpointError, match=r"cancelled\. What was answered before is stored"):
        stage.answer()
    assert stage.num_left == 6
    server.rules = Rules()
    stage.answer()
    assert stage.num_left == 0
    assert server.paid.total() == 10


def test_batches_that_take_too_long_are_left_and_said_and_the_next_run_waits_for_them(
    server: BatchServer, tmp_path: Path
):
    server.rules.num_polls = 40
    stage = Stage(tmp_path, server.url, batch={"deadline_hours": 1e-5})
    with pytest.raises(EndpointError, match=r"batch_1, not ended after .* run again to wait"):
        stage.answer()
    Stage(tmp_path, server.url).answer()
    assert stage.num_left == 0
    assert len(server.batches) == 1


def test_a_stopped_run_says_which_batches_go_on(
    server: BatchServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(tmp_path, server.url)
    server.rules.num_polls = 3

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hydra_ray.generate.batches.session.time.sleep", stop)
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
            stage.answer()
    assert "batch_1 go on at the endpoint" in caplog.text
    assert "hydra-ray stop RUN --cancel" in caplog.text
    stage.answer()
    assert len(server.batches) == 1


def test_two_stages_with_the_same_requests_share_a_batch(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    with stage.session() as first, stage.session() as second:
        second.asker = "drafts-" + "1" * 16
        first._prepare(lambda: stage.fill(first))
        second.answer(lambda: stage.fill(second))
    assert stage.num_left == 0
    assert server.paid.total() == 10
    assert len(server.batches) == 1


def test_what_was_answered_in_batches_is_known_by_its_file(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    stage.answer()
    assert len(stage.store.find(0, stage.buckets[0]).of(batched(ASKER))) == 6
    assert stage.store.find(0, stage.buckets[0]).of(ASKER) == {}


def test_the_most_that_all_batches_may_take_is_asked_for_before_any_is_submitted(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, prompt_price=1e6, generated_price=2e6)
    stage.answer()
    (most,) = stage.spent
    assert most["asked_tokens"] >= 10 * (8 + 8)
    assert most["cost"] == pytest.approx(0.5 * (most["asked_tokens"] + 80))


def test_batches_are_not_submitted_where_they_may_not_be_paid(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)

    def refuse(_: object) -> None:
        raise ConfigError("no")

    with stage.session() as session:
        session.may_spend = refuse
        with pytest.raises(ConfigError):
            session.answer(lambda: stage.fill(session))
    assert server.calls == []
    assert left_behind(stage, server) == []


def test_an_endpoint_elsewhere_is_not_asked_for_batches_that_are_under_way(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"deadline_hours": 1e-6})
    server.rules.num_polls = 9
    with pytest.raises(EndpointError):
        stage.answer()
    with pytest.raises(ConfigError, match="set it back and run again"):
        Stage(tmp_path, "http://127.0.0.1:9/v1").answer()


def test_cancelled_batches_keep_what_they_have_answered(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"deadline_hours": 1e-6})
    server.rules = Rules(num_polls=99, answered=lambda number: number < 4)
    with pytest.raises(EndpointError):
        stage.answer()
    with stage.session() as session:
        assert session.cancel() == []
    assert stage.num_left == 6
    assert left_behind(stage, server) == []


def test_requests_of_forgotten_users_are_not_sent_and_their_results_not_used(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url, batch={"deadline_hours": 1e-6})
    server.rules.num_polls = 5
    with pytest.raises(EndpointError):
        stage.answer()
    (record,) = batches_of(stage.store).records()
    folder = batches_of(stage.store)
    folder._write_part(record.key, 0, [each for each in stage.buckets[0] if each.user_id != "user-0"])
    stage.buckets[0] = stage.buckets[0][3:]
    Stage(tmp_path, server.url, stage.buckets).answer()
    assert set(stage.answers()) == {each.request_id for own in stage.buckets.values() for each in own}
    assert stage.store.read(0, requests_of(range(3))) == {}


def stopped(stage: Stage, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Submit the one batch of a stage and stop the process; return the location of the batch's record."""
    server.rules.num_polls = 3

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hydra_ray.generate.batches.session.time.sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            stage.answer()
    (found,) = Path(batches_of(stage.store).folder).glob("*.json")
    return found


def test_a_batch_that_a_key_of_another_project_does_not_see_is_not_asked_again(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(tmp_path, server.url)
    record = stopped(stage, server, monkeypatch)
    hidden = dict(server.batches)
    server.batches.clear()
    with pytest.raises(EndpointError, match=r"has no batch batch_1, .* project") as raised:
        stage.answer()
    assert str(record) in str(raised.value)
    server.batches.update(hidden)
    stage.answer()
    assert stage.num_left == 0
    assert server.paid.total() == len(server.paid) == 10


def test_a_batch_that_is_gone_is_asked_again_once_its_record_is_removed(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(tmp_path, server.url)
    record = stopped(stage, server, monkeypatch)
    server.batches.clear()
    record.unlink()
    stage.answer()
    assert stage.num_left == 0
    assert list_tree(batches_of(stage.store).folder) == []


@pytest.mark.parametrize(("before", "after"), [(None, 2), (2, None), (3, 2)])
def test_lines_under_way_are_read_as_they_were_sent_whatever_the_setting_is_now(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None, after: int | None
):
    buckets = {0: requests_of(range(3), num_samples=4)}
    stopped(Stage(tmp_path, server.url, buckets, max_samples_per_call=before), server, monkeypatch)
    stage = Stage(tmp_path, server.url, buckets, max_samples_per_call=after)
    stage.answer()
    assert {len(each.generations) for each in stage.answers().values()} == {4}
    assert len(server.batches) == 1


def test_a_batch_that_has_ended_before_its_files_are_told_is_looked_at_again(server: BatchServer, tmp_path: Path):
    stage, retrieve, looks = Stage(tmp_path, server.url), server._retrieve, iter(range(100))

    def late(batch_id: str) -> tuple[int, Any]:
        status, found = retrieve(batch_id)
        return status, {**found, "output_file_id": None} if next(looks) < 2 else found

    server._retrieve = late  # pyright: ignore[reportAttributeAccessIssue]
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 1
    assert left_behind(stage, server) == []


def test_a_result_file_that_is_cut_off_in_its_last_line_is_downloaded_again(server: BatchServer, tmp_path: Path):
    stage, content, looks = Stage(tmp_path, server.url), server._content, iter(range(100))

    def cut(file_id: str) -> tuple[int, Any]:
        status, found = content(file_id)
        return status, found[:-30] if next(looks) < 1 else found

    server._content = cut  # pyright: ignore[reportAttributeAccessIssue]
    stage.answer()
    assert stage.num_left == 0
    assert server.paid.total() == 10


def test_a_result_file_that_is_gone_is_said_and_its_requests_are_asked_again(
    server: BatchServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    stage = Stage(tmp_path, server.url)
    server.fail("content", *[Fault(status=404)] * 3)
    stage.answer()
    assert stage.num_left == 0
    assert len(server.batches) == 2
    assert "0 results of 10 that the endpoint has told of; the others are asked, and paid, again" in caplog.text


def test_a_cancelled_batch_whose_results_are_gone_is_cleared_away(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(tmp_path, server.url)
    stopped(stage, server, monkeypatch)
    server.rules = Rules()
    for state in server.batches.values():
        server._end(state, "completed")
    server.fail("content", *[Fault(status=404)] * 3)
    with stage.session() as session:
        assert session.cancel() == []
    assert left_behind(stage, server) == []


def test_a_flipped_bit_in_a_record_is_refused_by_name(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(tmp_path, server.url)
    record = stopped(stage, server, monkeypatch)
    content, folder = record.read_bytes(), batches_of(stage.store)
    for bit in Random(0).sample(range(8 * len(content)), 200):
        record.write_bytes(flipped(content, bit))
        with pytest.raises(StorageError, match=record.stem):
            folder.records()
    record.write_bytes(content)
    record.with_stem("0" * 32).write_bytes(content)
    with pytest.raises(StorageError, match="is the record of another batch"):
        folder.records()
