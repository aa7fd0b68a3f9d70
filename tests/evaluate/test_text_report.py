import copy
from collections.abc import Callable
from typing import Any

import pytest
from synthetic import synthetic_best_of_n, synthetic_config

from hydra_ray.cli import main
from hydra_ray.config import RunConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.conclusions import CONCLUSIONS, CONTROL_CONCLUSIONS
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.evaluate.report import StageCost, build_report
from hydra_ray.evaluate.report_tables import gate_table
from hydra_ray.evaluate.systems import FURTHER_PAIRS, HYDRA, SYSTEMS, system_titles
from hydra_ray.evaluate.text_report import report_sections, report_text
from hydra_ray.storage import write_json

MakeAnswers = Callable[..., list[Any]]
SECTIONS = {"better": "What worked", "worse": "What did not work", "open": "What these numbers leave open"}


@pytest.fixture(scope="module")
def report(task: Task, config: RunConfig, costs: list[StageCost], make_answers: MakeAnswers) -> dict[str, Any]:
    return build_report(task, make_answers(task, 40), costs, config)


def said(report: dict[str, Any], title: str) -> str:
    return "\n".join(next((section.sentences for section in report_sections(report) if section.title == title), ()))


def with_difference(report: dict[str, Any], first: str, second: str, advantage: float, width: float) -> dict[str, Any]:
    """The report with another difference; `advantage` above 0 is better for the first system, whatever the metric."""
    changed = copy.deepcopy(report)
    metric = report["metrics"][0]
    value = advantage if metric["is_higher_better"] else -advantage
    figure = {"value": value, "low": value - width, "high": value + width}
    changed["differences"].setdefault(first, {}).setdefault(second, {})[metric["name"]] = figure
    test = {"test": "paired t", "p_value": 0.001, "adjusted_p_value": 0.01}
    changed["significance"].setdefault(first, {})[second] = test
    return changed


@pytest.mark.parametrize(("advantage", "found"), [(0.2, "better"), (-0.2, "worse"), (0.05, "open")])
def test_a_claim_stands_where_its_interval_puts_it(report: dict[str, Any], advantage: float, found: str) -> None:
    changed = with_difference(report, "rag_k", "zero_shot", advantage, 0.1)
    for which, title in SECTIONS.items():
        claim = "RAG k=4 and Zero-shot (" if which == "open" else "in the prompt"
        assert (claim in said(changed, title)) == (which == found)


def test_pairs_that_are_not_told_apart_are_one_sentence_and_those_alike_another(report: dict[str, Any]) -> None:
    changed = with_difference(report, "rag_k", "zero_shot", 0.0, 0.1)
    changed = with_difference(changed, "hydra", "hydra_routed", 0.0, 0.0)
    left = next(section for section in report_sections(changed) if section.title == SECTIONS["open"])
    assert len(left.sentences) <= 2
    assert left.sentences[-1].startswith("Equally good on every user: HYDRA and HYDRA, routed shared heads")


@pytest.mark.parametrize(
    ("generator", "told"),
    [
        ({"model": "/models/mine"}, "/models/mine, loaded by vLLM"),
        ({"model": "/models/mine", "engine": "fake"}, "a fixed rule (engine fake)"),
        (
            {"model": "/tokenizer", "engine": "openai", "api": {"base_url": "https://a.b/v1", "model": "its-model"}},
            "its-model at https://a.b/v1",
        ),
        (
            {"model": "/t", "engine": "openai_batch", "api": {"base_url": "https://a.b/v1", "model": "its-model"}},
            "its-model at https://a.b/v1, in batches",
        ),
    ],
)
def test_who_answered_is_told_and_not_whose_tokenizer_fitted_prompts(
    task: Task, make_answers: MakeAnswers, generator: dict[str, Any], told: str
) -> None:
    report = build_report(task, make_answers(task, 3), [], synthetic_config(task, generator=generator))
    assert f"Generator: {told}" in said(report, "What was evaluated")
    assert "/t" not in said(report, "What was evaluated") or "/tokenizer" not in report_text(report)


def test_no_system_is_there_twice(task: Task, make_answers: MakeAnswers) -> None:
    report = build_report(task, make_answers(task, 3), [], synthetic_config(task, drafts={"num_records": 1}))
    titles = [system["title"] for system in report["systems"].values()]
    assert len(titles) == len({*titles})
    assert "rag_1" not in report["systems"]
    assert "rag_k" in report["systems"]


def test_a_p_value_of_one_is_not_said(report: dict[str, Any]) -> None:
    assert "p = 1.000 (Holm)" not in report_text(report)
    assert "no difference to HYDRA is shown" in report_text(report)


def test_every_claim_is_about_a_pair_that_is_compared(config: RunConfig, task: Task) -> None:
    for conclusion in (*CONCLUSIONS, *CONTROL_CONCLUSIONS):
        if conclusion.second in SYSTEMS:
            assert conclusion.first == HYDRA or (conclusion.first, conclusion.second) in FURTHER_PAIRS
        titles = dict.fromkeys(("first", "second"), "X")
        assert all(
            "{" not in words.format(**titles) for words in (conclusion.better, conclusion.worse, conclusion.open)
        )
    assert set(system_titles(task, config)) == set(SYSTEMS)


def test_heads_are_called_personal_only_where_anothers_do_worse(report: dict[str, Any]) -> None:
    section = "Are the heads personal?"
    lost = with_difference(report, "hydra_personal", "hydra_shuffled", 0.2, 0.1)
    kept = with_difference(report, "hydra_personal", "hydra_shuffled", 0.0, 0.1)
    assert "the gain is lost, so the heads are personal" in said(lost, section)
    assert "it is not shown that the heads are personal" in said(kept, section)
    changed = report["changed_answers"][1]
    assert f"{changed['changed']} of 40 queries differently" in said(report, section)
    assert f"{changed['better']} better, {changed['worse']} worse" in said(report, section)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.05, 0.2, "more often"), (-0.2, -0.05, "less often"), (-0.1, 0.1, "no difference between the two can be shown")],
)
def test_harm_is_weighed_against_resampling(report: dict[str, Any], low: float, high: float, words: str) -> None:
    changed = copy.deepcopy(report)
    changed["harm"]["systems"] = {"hydra": report["harm"]["systems"]["hydra"]}
    changed["harm"]["systems"]["hydra"]["minus_resampled"] = {"value": (low + high) / 2, "low": low, "high": high}
    assert words in said(changed, "Who is harmed?")


def test_the_heaviest_features_are_named_by_size_whatever_their_sign(report: dict[str, Any]) -> None:
    weights = {"vote share": 0.8, "length": -0.9, "one": 0.1, "two": 0.2, "three": 0.3, "four": 0.05}
    features = [{"scorer": "adapter", "name": name, "weight": weight} for name, weight in weights.items()]
    sentence = said(report | {"features": features}, "What weighs most")
    assert "length \N{MINUS SIGN}0.900, vote share +0.800, three +0.300, two +0.200, one +0.100." in sentence
    assert "four" not in sentence
    assert said(report, "What weighs most") == ""


def test_caveats_name_what_to_beware_of(report: dict[str, Any]) -> None:
    caveats = said(report | {"num_users": 12, "num_unjudged_queries": 1}, "Beware")
    assert "fewer than 20 users" in caveats
    assert "want of a target: 1 query." in caveats
    assert "stage probes 1.2% of" in caveats
    assert "fewer than" not in said(report, "Beware")


def test_of_a_run_without_a_gate_nothing_is_said_about_one(
    task: Task, costs: list[StageCost], make_answers: MakeAnswers, report: dict[str, Any]
) -> None:
    assert " gate " in report_text(report).lower()
    ungated = build_report(task, make_answers(task, 40), costs, synthetic_config(answers={"is_gated": False}))
    assert "gate" not in report_text(ungated).lower()
    assert (gate_table(report) is not None, gate_table(ungated)) == (True, None)


def test_the_printed_card_has_the_ladder_and_every_sentence(report: dict[str, Any]) -> None:
    text = report_text(report)
    metric = report["metrics"][0]["name"]
    for system in report["systems"].values():
        figure = system["metrics"][metric]
        assert f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" in text
    unwrapped = " ".join(text.split())
    for section in report_sections(report):
        assert section.title in text
        assert all(sentence in unwrapped for sentence in section.sentences)
    assert max(map(len, text.splitlines())) <= 120


def test_systems_that_are_not_there_are_not_talked_about(
    task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    full = make_answers(task, 3)
    (user, answered), *_ = full
    query = answered.queries[0]
    only = type(query)(
        query_id=query.query_id,
        answers=tuple(answer for answer in query.answers if answer.system == "hydra"),
        pool=query.pool,
    )
    alone = type(answered)(
        user_id=answered.user_id, num_history=3, reranker_head="shared", adapter_head="shared", queries=(only,)
    )
    report = build_report(task, [(user, alone)], [], config)
    titles = {section.title for section in report_sections(report)}
    assert titles == {"What was evaluated", "What the gate chose"}
    assert "no baseline to compare them with" in report_text(report)


def test_the_command_prints_each_card_and_sums_several_up(
    report: dict[str, Any], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        write_json(str(tmp_path / name / "metrics.json"), report | {"run": name})
    assert main(["report", str(tmp_path / "one")]) == 0
    alone = capsys.readouterr().out
    assert alone.startswith("one: ")
    assert "average relative gain" not in alone
    assert main(["report", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    both = capsys.readouterr().out
    assert alone in both
    assert "2 runs: average relative gain" in both


def test_a_report_of_another_version_is_refused(report: dict[str, Any], tmp_path: Any) -> None:
    write_json(str(tmp_path / "metrics.json"), {key: value for key, value in report.items() if key != "significance"})
    with pytest.raises(InputError, match="lacks \\['significance'\\]"):
        read_report(str(tmp_path))


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_what_more_drafts_bring_is_one_sentence(
    report: dict[str, Any], task: Task, config: RunConfig, make_answers: MakeAnswers
) -> None:
    assert not said(report, "Best of N drafts")
    best = synthetic_best_of_n(task, make_answers(task, 40), config.report)
    assert best is not None
    sentence = said(report | {"best_of_n": best}, "Best of N drafts")
    first, last = best["points"][0], best["points"][-1]
    one, chosen, oracle = (each["value"] for each in (first["oracle"], last["quality"]["personal"], last["oracle"]))
    assert one < chosen < oracle
    assert f"one at random has ROUGE-L {one:.3f}, the best {oracle:.3f}" in sentence
    assert f"prefer {chosen:.3f}, which is {(chosen - one) / (oracle - one):.1%} of the way." in sentence
    assert f"worse than one at random on {last['hacked_queries']['personal']['value']:.1%} [" in sentence
