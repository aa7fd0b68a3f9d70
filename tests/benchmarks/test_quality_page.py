import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bars import SetRuns, judge_bars
from quality_page import bar_lines, quality_page
from synthetic import CLASSIFICATION

MakeReport = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sets(reports: dict[str, dict[str, Any]], make_report: MakeReport) -> list[SetRuns]:
    papers = {
        name: {**report, "config": {**report["config"], "answers": {"is_gated": False}}}
        for name, report in reports.items()
    }
    return [SetRuns(name=name, default=report, paper=papers[name]) for name, report in reports.items()]


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the first table under a heading, by the first cell of each line."""
    section = page.split(f"## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_every_bar_has_its_word_and_its_numbers_on_the_page_as_in_print(sets: list[SetRuns]) -> None:
    bars = judge_bars(sets, None)
    page = quality_page(sets, bars, {}, {})
    printed = list(bar_lines(bars))
    for number, (bar, line) in enumerate(zip(bars, printed, strict=True), start=1):
        assert f"## Bar {number}: {bar.title}\n\n**{bar.word}.** {bar.verdict}" in page
        assert line.startswith(f"{bar.word}  {number}. ")
        assert line.endswith(bar.verdict)


def test_every_system_of_every_set_stands_in_one_table_with_its_interval(sets: list[SetRuns]) -> None:
    sets = [*sets[:-1], replace(sets[-1], paper=None)]
    table = rows(quality_page(sets, judge_bars(sets, None), {}, {}), "All systems")
    for place, each in enumerate(sets):
        best = each.default["best_prompt_baseline"]
        for name, system in each.default["systems"].items():
            figure = system["quality"]
            shown = f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
            is_bold = name in ("hydra", best)
            (title,) = (title for title in table if system["title"] in title.split(" / "))
            assert table[title][place] == (f"**{shown}**" if is_bold else shown)
    assert table["User's majority"][-1] == ""  # a text has none
    assert table["Published method"][-1] == "not run"
    assert table["Published method"][0] == table["HYDRA"][0].strip("*")
    assert table["Published method, routed shared heads"][0] == table["HYDRA, routed shared heads"][0]


def test_the_gates_choices_are_shares_of_the_queries(sets: list[SetRuns]) -> None:
    table = rows(quality_page(sets, judge_bars(sets, None), {}, {}), "What the gate chose")
    for each in sets:
        shares = [float(cell.rstrip("%")) for cell in table[each.name][:-2]]
        assert sum(shares) == pytest.approx(100, abs=0.2)


def test_planted_samples_stand_in_the_order_of_their_size(sets: list[SetRuns], make_report: MakeReport) -> None:
    def planted(num_records: int, num_train_users: int) -> dict[str, Any]:
        sample = {"num_records": num_records, "num_train_users": num_train_users}
        return make_report(CLASSIFICATION, "planted", lamp={"task": "planted", "planted": sample})

    samples = {"large": planted(10, 80), "few": planted(10, 20), "short": planted(5, 80)}
    page = quality_page(sets, judge_bars(sets, samples["large"]), samples, {})
    section = page.split("## Planted preferences\n")[1].split("\n## ")[0]
    sizes = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| 40 \|", section, flags=re.MULTILINE)
    assert sizes == [("short", "5", "80"), ("few", "10", "20"), ("large", "10", "80")]
    difference = samples["large"]["differences"]["hydra_personal"]["hydra_shared"]["accuracy"]
    num_shown = 3 if difference["low"] > 0 else 0
    assert f"in {num_shown} of 3 samples" in section


def test_what_was_not_run_is_said(sets: list[SetRuns]) -> None:
    page = quality_page(sets, judge_bars(sets, None), {}, {})
    assert "Not run (`--planted`)" in page
    assert "Not run (`--curves`)" in page


def test_a_curve_over_a_setting_has_one_line_a_run(sets: list[SetRuns], make_report: MakeReport) -> None:
    runs = [make_report(CLASSIFICATION, "b", drafts={"num_samples": b}) for b in (8, 2)]
    table = rows(quality_page(sets, judge_bars(sets, None), [], {"news": {"drafts.num_samples": runs}}), "By setting")
    assert [label for label in table if label.isdigit()] == ["2", "8"]


def test_seconds_are_summed_over_the_steps_of_a_stage(sets: list[SetRuns]) -> None:
    table = rows(quality_page(sets, judge_bars(sets, None), {}, {}), "Seconds by stage")
    assert table["run"] == ["probes", "reranker", "together"]
    assert table["news"] == ["60", "12", "72"]
