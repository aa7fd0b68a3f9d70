"""What the table of stages tells of failures and costs."""

from synthetic import CLASSIFICATION, synthetic_answers, synthetic_config

from hydra_ray.evaluate.phrases import duration, span
from hydra_ray.evaluate.report import StageCost, build_report
from hydra_ray.evaluate.report_tables import stage_table

ASKED = {"requests": 100, "answers": 100, "prompt_tokens": 9000, "generated_tokens": 700}


def cells_of(*counters: dict[str, float]) -> dict[str, list[str]]:
    """The cells of each stage's row, with their notes, and of the titles."""
    costs = [
        StageCost(name=f"stage-{place}", seconds=10, counters=each, is_reused=place == 0)
        for place, each in enumerate(counters)
    ]
    report = build_report(CLASSIFICATION, synthetic_answers(CLASSIFICATION, 4), costs, synthetic_config())
    table = stage_table(report)
    lines = (table.titles, *(row.cells for row in table.rows))
    found = ([f"{cell.text} {cell.note}".strip() for cell in line] for line in lines)
    return {cells[0]: cells[1:] for cells in found}


def test_failures_are_counted_by_kind_where_the_kind_is_known():
    found = cells_of({**ASKED, "failed": 5, "failed.content_filter": 3, "failed.timeout": 2, "failed.engine": 0})
    assert found["stage-0 (reused)"][-3:] == ["5 (3 content filter, 2 timeout)", "5.0%", "0.0%"]
    assert cells_of({**ASKED, "failed": 1})["stage-0 (reused)"][-3] == "1"
    assert cells_of({"rows": 3.0})["stage-0 (reused)"][-3:] == ["", "", ""]


def test_all_stages_are_added_up_and_costs_are_shown_where_prices_are_known():
    priced = cells_of({**ASKED, "cost": 0.5}, {**ASKED, "cost": 0.25}, {"rows": 3.0})
    place = priced["stage"].index("cost")
    assert [priced[name][place] for name in ("stage-1", "stage-2", "all stages")] == ["0.2500", "", "0.7500"]
    assert priced["all stages"][0] == "30.0"
    assert priced["all stages"][priced["stage"].index("prompt tokens")] == "18,000"
    assert "cost" not in cells_of(ASKED)["stage"]


def test_thoughts_have_columns_only_where_there_are_any():
    found = cells_of({**ASKED, "thoughts": 90, "thought_tokens": 400}, ASKED)
    place = found["stage"].index("thoughts")
    assert found["stage"][place + 1] == "thought tokens"
    assert [found[name][place] for name in ("stage-0 (reused)", "stage-1", "all stages")] == ["90", "", "90"]
    assert "thoughts" not in cells_of(ASKED)["stage"]


def test_times_and_ranges_are_written_as_people_say_them():
    assert [duration(each) for each in (0.4, 59, 60, 3599.6, 7384)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "1 h 0 min",
        "2 h 3 min",
    ]
    assert (span(4, 4), span(7, 1200)) == ("4", "7 to 1,200")
