"""A first configuration of files as people have them: it is right about what is in them, and a run takes it."""

import csv
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hydra_ray.cli import main
from hydra_ray.commands.init.columns_guess import parse_choices
from hydra_ray.commands.init.configuration_text import GeneratorChoice
from hydra_ray.commands.init.initialize import Ask, Initialized, Wishes, initialize, take_guess
from hydra_ray.config import PlantedConfig, RunConfig, load_config
from hydra_ray.errors import ConfigError, HydraError, InputError
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.tasks import task_of

OWN_MODEL = GeneratorChoice(endpoint=None, model=None, encoder=None, has_gpu=False)
TEAMS = ("hardware", "software", "billing")


def wishes(*files: Path, **given: Any) -> Wishes:
    settings: dict[str, Any] = {"users": [str(each) for each in files], "columns": {}, "generator": OWN_MODEL}
    return Wishes(**(settings | given))


def made(tmp_path: Path, *files: Path, ask: Ask = take_guess, **given: Any) -> tuple[RunConfig, Initialized]:
    """The configuration as it is read again, and what was said."""
    found = initialize(wishes(*files, root=str(tmp_path / "root"), **given), ask)
    (tmp_path / "made.yaml").write_text(found.text)
    return load_config(tmp_path / "made.yaml"), found


def tickets(**names: str) -> list[dict[str, Any]]:
    chance = random.Random(1)
    rows = [
        {
            "user_id": f"c{user:03}",
            "input": f"It does not work any more, please help me with number {chance.random()}",
            "output": chance.choice(TEAMS),
            "date": f"2026-01-{chance.randint(10, 28)}",
        }
        for user in range(12)
        for _ in range(6)
    ]
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_gzip(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


NAMES = [
    {},
    {"user_id": "Customer", "input": "Body", "output": "Team", "date": "Created At"},
    {"user_id": "reviewerID", "input": "reviewText", "output": "category", "date": "unixReviewTime"},
    {"user_id": "uid", "input": "message", "output": "label", "date": "ts"},
    {"user_id": "whoId", "input": "what was said", "output": "choice", "date": "on"},
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("write", [write_csv, write_lines, write_parquet, write_gzip])
def test_events_are_understood_under_their_own_names(tmp_path: Path, names: dict[str, str], write: Callable[..., Path]):
    config, found = made(tmp_path, write(tmp_path / "tickets", tickets(**names)))
    task, columns = task_of(config.lamp), config.lamp.columns
    assert columns.user_id == names.get("user_id", "user_id")
    assert columns.input == (names.get("input", "input"),)
    assert (columns.output, columns.date) == (names.get("output", "output"), names.get("date", "date"))
    assert (task.kind, {*task.labels}) == ("classification", {*TEAMS})
    assert config.users.num_folds > 1
    assert found.problems == []


def test_a_subject_and_a_body_are_one_input(tmp_path: Path):
    rows = [{**row, "Subject": "Help"} for row in tickets(input="Body", output="Team")]
    config, _ = made(tmp_path, write_csv(tmp_path / "t.csv", rows, ";"))
    assert config.lamp.columns.input == ("Subject", "Body")


def test_columns_named_as_ours_by_chance_are_left_out(tmp_path: Path):
    rows = [{**row, "kind": "bug", "id": "same"} for row in tickets()]
    config, found = made(tmp_path, write_csv(tmp_path / "t.csv", rows))
    assert (config.lamp.columns.kind, config.lamp.columns.id) == (None, None)
    assert found.problems == []


def test_dates_that_no_run_reads_are_left_out_and_told_without_their_digits(tmp_path: Path):
    rows = [{**row, "date": "07/04/2021"} for row in tickets()]
    config, found = made(tmp_path, write_csv(tmp_path / "t.csv", rows))
    assert config.lamp.columns.date is None
    assert any("99/99/9999" in line and "left out" in line for line in found.lines)
    assert found.problems == []


RATED = {
    "stars": (["1.0", "2.0", "4.0", "5.0"], ("1", "2", "3", "4", "5")),
    "score": ([1.5, 2.0, 4.5], ("1.5", "2", "2.5", "3", "3.5", "4", "4.5")),
    "answer": ([3, 4, 5], ("3", "4", "5")),
}


@pytest.mark.parametrize("name", RATED)
def test_ratings_have_the_steps_between_too(tmp_path: Path, name: str):
    given, labels = RATED[name]
    rows = [{**row, "output": given[place % len(given)]} for place, row in enumerate(tickets())]
    rows = [{name if key == "output" else key: value for key, value in row.items()} for row in rows]
    config, found = made(tmp_path, write_lines(tmp_path / "r.jsonl", rows))
    task = task_of(config.lamp)
    assert (task.kind, task.labels) == ("rating", labels)
    assert found.problems == []


def test_answers_that_are_no_labels_are_text_whose_length_fits(tmp_path: Path):
    rows = [
        {**row, "output": f"Dear you, {place} " + "and so on " * (place % 9)} for place, row in enumerate(tickets())
    ]
    config, _ = made(tmp_path, write_lines(tmp_path / "mail.jsonl", rows))
    task = task_of(config.lamp)
    assert (task.kind, task.labels) == ("text", ())
    assert 90 / 3 <= task.max_tokens <= 64


def test_zero_and_one_are_classes_unless_a_rating_is_named(tmp_path: Path):
    rows = [{**row, "output": place % 2} for place, row in enumerate(tickets())]
    config, _ = made(tmp_path, write_lines(tmp_path / "b.jsonl", rows))
    assert task_of(config.lamp).kind == "classification"


def users(num_users: int, *, is_told: bool, queries: list[dict[str, str]] | None) -> list[dict[str, Any]]:
    history = [{"question": f"What of {place}?", "reply": f"This and that {place}", "when": 5} for place in range(3)]
    rows = [{"author": f"a{place}", "past": history, "asked": queries} for place in range(num_users)]
    return [{**row, **({"is_new": place % 2 == 0} if is_told else {})} for place, row in enumerate(rows)]


@pytest.mark.parametrize("is_told", [True, False])
def test_rows_of_users_are_understood_and_folds_taken_where_nobody_teaches(tmp_path: Path, is_told: bool):
    queries = [{"question": "And now?", "reply": "So."}]
    config, found = made(tmp_path, write_lines(tmp_path / "u.jsonl", users(8, is_told=is_told, queries=queries)))
    columns = config.lamp.columns
    assert (columns.user_id, columns.history, columns.queries) == ("author", "past", "asked")
    assert (columns.input, columns.output, columns.target, columns.date) == (("question",), "reply", "reply", "when")
    assert (config.users.num_folds > 1) is not is_told
    assert found.problems == []


def test_users_without_queries_are_a_problem_that_says_what_to_do(tmp_path: Path):
    _, found = made(tmp_path, write_lines(tmp_path / "u.jsonl", users(8, is_told=True, queries=None)))
    assert [problem for problem in found.problems if "queries" in problem and "newest" in problem]


def judged(**names: str) -> list[dict[str, Any]]:
    """Events of people who said which of two answers they preferred, and what they are asked last."""
    rows: list[dict[str, Any]] = []
    for user in range(12):
        own = [{"user_id": f"c{user}", "chosen": f"Short {n}.", "rejected": f"A longer one {n}."} for n in range(6)]
        rows += [*own, {"user_id": f"c{user}", "candidates": ["Short.", "A longer one."], "target": "Short."}]
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


@pytest.mark.parametrize(
    "names", [{}, {"chosen": "winner", "rejected": "loser", "user_id": "rater", "candidates": "options"}]
)
def test_what_was_preferred_is_a_preference_that_needs_no_generator(tmp_path: Path, names: dict[str, str]):
    config, found = made(tmp_path, write_lines(tmp_path / "judged.jsonl", judged(**names)))
    task = task_of(config.lamp)
    assert (task.kind, config.generator.engine, found.problems) == ("preference", "none", [])
    assert config.users.num_folds == 5
    assert config.lamp.columns.chosen == names.get("chosen", "chosen")
    assert config.lamp.columns.candidates == names.get("candidates", "candidates")
    assert found.num_requests == 0
    assert not any(line.startswith("no targets") for line in found.lines)


def asked_openly() -> list[dict[str, Any]]:
    """Events of people of whom some are asked without candidates, and of others who teach."""
    marked = [{**row, "is_new": row["user_id"] < "c5"} for row in judged() if "chosen" in row]
    queries = [{"user_id": f"c{user}", "input": "And now?", "is_new": True} for user in range(3)]
    return [*({"input": "Which?", **row} for row in marked), *queries]


def test_queries_without_candidates_need_a_generator(tmp_path: Path):
    asked: list[str] = []

    def answer(question: str, guess: str) -> str:
        asked.append(question)
        return guess

    config, found = made(tmp_path, write_lines(tmp_path / "open.jsonl", asked_openly()), ask=answer)
    assert (task_of(config.lamp).kind, config.drafts_candidates, found.problems) == ("preference", True, [])
    assert "reranked" not in config.drafts.prompts
    assert found.num_requests == 3 * 5  # of three queries four prompts, and samples of one
    assert any(each.startswith("Endpoint") for each in asked)
    assert "Instruction to the generator" in asked
    endpoint = GeneratorChoice(endpoint="openai", model="m", encoder=None, has_gpu=False)
    config, _ = made(tmp_path, write_lines(tmp_path / "again.jsonl", asked_openly()), generator=endpoint)
    assert config.generator.api is not None


def test_queries_without_candidates_are_a_problem_where_no_generator_is_wanted(tmp_path: Path):
    _, found = made(tmp_path, write_lines(tmp_path / "open.jsonl", asked_openly()), generator=NOBODY)
    assert "no candidates; without a generator" in "".join(found.problems)


def test_rated_lists_are_a_preference_too(tmp_path: Path):
    history = [{"input": "Which?", "options": ["one", "two", "three"], "stars": [1, 5, 3]}] * 4
    asked = [{"input": "Which?", "options": ["one", "two"], "target": "one"}]
    rows = [{"user_id": f"u{place}", "history": history, "queries": asked} for place in range(10)]
    config, found = made(tmp_path, write_lines(tmp_path / "rated.jsonl", rows))
    assert task_of(config.lamp).kind == "preference"
    assert (config.lamp.columns.candidates, config.lamp.columns.ratings) == ("options", "stars")
    assert found.problems == []


NOBODY = GeneratorChoice(endpoint=None, model=None, encoder=None, has_gpu=False, is_none=True)


def test_labels_need_no_generator_where_none_is_wanted(tmp_path: Path):
    asked: list[str] = []

    def answer(question: str, guess: str) -> str:
        asked.append(question)
        return guess

    file = write_csv(tmp_path / "tickets.csv", tickets())
    config, found = made(tmp_path, file, generator=NOBODY, ask=answer)
    assert (config.has_generator, task_of(config.lamp).kind, found.num_requests) == (False, "classification", 0)
    assert not [each for each in asked if "Endpoint" in each or "generator" in each]
    assert "generator is told" not in found.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "text"}, "a generator must write: leave --no-generator out"),
        ({"generator": replace(NOBODY, model="m")}, "asks nobody"),
    ],
)
def test_no_generator_is_refused_for_texts_and_beside_a_model(tmp_path: Path, given: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        initialize(wishes(write_csv(tmp_path / "tickets.csv", tickets()), **{"generator": NOBODY, **given}))


def test_a_generator_for_preferences_is_refused_and_another_kind_may_be_given(tmp_path: Path):
    path = write_lines(tmp_path / "judged.jsonl", judged())
    endpoint = GeneratorChoice(endpoint="openai", model="m", encoder=None, has_gpu=False)
    with pytest.raises(ConfigError, match="--endpoint and --model out"):
        initialize(wishes(path, generator=endpoint))
    with pytest.raises(ConfigError, match="--column chosen=NAME"):
        initialize(wishes(write_csv(tmp_path / "tickets.csv", tickets()), kind="preference"))


def test_what_cannot_be_told_is_asked_for_by_name(tmp_path: Path):
    rows = [{"a": place, "b": place * 2.5} for place in range(9)]
    with pytest.raises(ConfigError, match="who a row is of among the 2 columns a, b: give --column user_id=NAME"):
        made(tmp_path, write_lines(tmp_path / "x.jsonl", rows))


def test_choices_go_before_guesses_and_are_checked(tmp_path: Path):
    file = write_csv(tmp_path / "t.csv", [{**row, "channel": "mail"} for row in tickets()])
    config, _ = made(tmp_path, file, columns=parse_choices(["input=input,channel", "date="]), kind="text")
    assert (config.lamp.columns.input, config.lamp.columns.date) == (("input", "channel"), None)
    assert task_of(config.lamp).kind == "text"
    with pytest.raises(ConfigError, match=r"no such column, only .*; did you mean channel\?"):
        made(tmp_path, file, columns=parse_choices(["input=chanel"]))
    with pytest.raises(ConfigError, match=r"expected one of user_id, .*; did you mean output\?"):
        parse_choices(["outputs=x"])


def test_questions_are_answered_in_the_place_of_guesses(tmp_path: Path):
    answers = {"Kind of answers: classification, rating or text": "text", "Name of the run": "mine"}
    config, _ = made(
        tmp_path,
        write_csv(tmp_path / "t.csv", tickets()),
        ask=answers.get,  # pyright: ignore[reportArgumentType]
    )
    assert (config.run, task_of(config.lamp).kind) == ("mine", "text")


@pytest.mark.parametrize("endpoint", ["openai", "mistral", "vllm", "https://example.org/v1"])
def test_an_endpoint_is_written_by_provider_or_url(tmp_path: Path, endpoint: str):
    generator = GeneratorChoice(endpoint=endpoint, model="some-model", encoder=None, has_gpu=False)
    config, _ = made(tmp_path, write_csv(tmp_path / "t.csv", tickets()), generator=generator)
    assert config.generator.api is not None
    assert config.generator.api.model == "some-model"
    assert endpoint in (config.generator.api.provider, config.generator.api.base_url)


@pytest.mark.parametrize(("endpoint", "model"), [("opanai", "x"), ("openai", None)])
def test_an_endpoint_that_is_not_told_in_full_is_refused(tmp_path: Path, endpoint: str, model: str | None):
    generator = GeneratorChoice(endpoint=endpoint, model=model, encoder=None, has_gpu=False)
    with pytest.raises(ConfigError, match="--endpoint"):
        made(tmp_path, write_csv(tmp_path / "t.csv", tickets()), generator=generator)


def test_lamp_folders_are_known_by_their_samples(tmp_path: Path):
    write_planted(PlantedConfig(num_train_users=4, num_new_users=2), tmp_path)
    with pytest.raises(InputError, match="samples of none of the tasks LaMP_1"):
        made(tmp_path, tmp_path)
    article = {"id": "1", "input": "Generate a headline for the following article: Rain again.", "profile": [
        {"id": "2", "title": "Rain", "text": "It rains."}]}  # fmt: skip
    target = {"id": "1", "output": "Again"}
    for split in ("train", "dev"):
        (tmp_path / f"{split}_questions.json").write_text(json.dumps([article]))
        (tmp_path / f"{split}_outputs.json").write_text(json.dumps({"task": "LaMP_4", "golds": [target]}))
    config, found = made(tmp_path, tmp_path)
    assert (config.lamp.task, config.lamp.root) == ("LaMP_4", str(tmp_path))
    assert found.problems == []


ODD = {
    "nothing": b"",
    "page.html": b"<html>",
    "one-column.csv": b"a\n1\n2\n",
    "numbers.jsonl": b"1\n2\n",
    "utf16.csv": "user_id,input,output\na,b,c\n".encode("utf-16"),
    "cut.jsonl": b'{"user_id": "a", "input": "b", "outp',
    "zip.zip": b"PK\x03\x04 and so on",
    "table.parquet": b"PAR1 and no more",
}


@pytest.mark.parametrize("name", ODD)
def test_files_of_which_nothing_can_be_made_are_told_in_a_sentence(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(ODD[name])
    with pytest.raises(HydraError, match=r"[a-z]{4}"):
        made(tmp_path, tmp_path / name)


def test_one_user_alone_is_a_problem(tmp_path: Path):
    _, found = made(tmp_path, write_csv(tmp_path / "one.csv", [{"user_id": "a", "input": "b", "output": "c"}]))
    assert "one user only" in found.problems[0]


@pytest.mark.integration
def test_the_command_writes_what_a_plan_takes_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "My tickets (new).csv", tickets(user_id="customer", output="team"))
    assert main(["init", "My tickets (new).csv"]) == 0
    said = capsys.readouterr().out
    assert "user_id = customer" in said
    assert "hydra-ray plan My-tickets-new.yaml" in said
    assert main(["plan", "My-tickets-new.yaml", "--no-calibration"]) == 0
    assert main(["init", "My tickets (new).csv"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["init", "My tickets (new).csv", "--force"]) == 0
