import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bars import JESTER, SetRuns, judge_bars
from quality_page import LADDER_STEPS, Measured, bar_lines, quality_page
from synthetic import CLASSIFICATION, synthetic_answers, synthetic_best_of_n, synthetic_config, with_systems

MakePiece = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sets(pieces: dict[str, dict[str, Any]]) -> list[SetRuns]:
    return [SetRuns(name=name, own=piece, published=piece) for name, piece in pieces.items()]


def page_of(sets: list[SetRuns], **found: Any) -> str:
    measured = Measured(sets=sets, **found)
    return quality_page(measured, judge_bars(sets, measured.own_heads))


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the first table under a heading, by the first cell of each line."""
    section = page.split(f"## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_every_bar_has_its_word_and_its_numbers_on_the_page_as_in_print(sets: list[SetRuns]) -> None:
    page, bars = page_of(sets), judge_bars(sets, {})
    printed = list(bar_lines(bars))
    for number, (bar, line) in enumerate(zip(bars, printed, strict=True), start=1):
        assert f"## Bar {number}: {bar.title}\n\n**{bar.word}.** {bar.verdict}" in page
        assert line.startswith(f"{bar.word}  {number}. ")
        assert line.endswith(bar.verdict)


def test_every_system_of_every_set_stands_in_one_table_with_its_interval(sets: list[SetRuns]) -> None:
    sets = [*sets[:-1], replace(sets[-1], published=None)]
    table = rows(page_of(sets), "All systems")
    for place, each in enumerate(sets):
        assert each.own is not None
        systems = each.own["systems"]
        rivals = [name for name in systems if name not in ("oracle", "hydra") and not name.startswith("hydra_")]
        best = max(rivals, key=lambda name: systems[name]["quality"]["value"])
        for name, system in systems.items():
            figure = system["quality"]
            shown = f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
            is_bold = name in ("hydra", best)
            (title,) = (title for title in table if system["title"] in title.split(" / "))
            assert table[title][place] == (f"**{shown}**" if is_bold else shown)
    assert table["User's majority"][-1] == ""  # a text has none
    assert table["Published method, re-implemented"][-1] == "not measured"
    assert table["Published method, re-implemented"][0] == table["HYDRA"][0].strip("*")
    routed = "Published method, re-implemented, routed shared heads"
    assert table[routed][0] == table["HYDRA, routed shared heads"][0]


def test_published_never_stands_without_re_implemented(sets: list[SetRuns]) -> None:
    page = page_of([replace(each, published_on_drafts=each.published) for each in sets])
    found = re.findall(r"published method(.{16})", page, flags=re.IGNORECASE)
    assert found
    assert set(found) == {", re-implemented"}


def test_the_first_paragraph_says_what_was_looked_at_and_what_intervals_hold_fixed(sets: list[SetRuns]) -> None:
    first = page_of(sets).split("\n\n")[1]
    for words in ("real people", "stand-ins", "Settings were chosen by results on people among those", "hold fixed"):
        assert words in first


def test_what_is_known_of_a_set_stands_beside_its_users(sets: list[SetRuns]) -> None:
    known = [replace(sets[0], name="LaMP_2N"), replace(sets[1], name="LaMP_3", own=None)]
    page = page_of(known)
    assert "| LaMP_2N | 40 | authors of news articles" in page
    assert "| LaMP_3 | not measured | people who reviewed" in page
    assert page.count("CC BY-NC-SA 4.0") == 1


def test_all_claims_of_the_page_are_corrected_together(
    sets: list[SetRuns], make_own_heads: Callable[..., dict[str, Any]]
) -> None:
    own_heads = {JESTER: make_own_heads()}
    table = rows(page_of(sets, own_heads=own_heads), "All claims, corrected together")
    claims = [claim for bar in judge_bars(sets, own_heads) for claim in bar.claims]
    assert len({claim.text for claim in claims}) == len(claims)
    # Five of rivals, six of own heads, ten of the gate, four of the published method.
    assert len(table) - 2 == len(claims) == 5 + 6 + 10 + 4
    smallest = min(claims, key=lambda claim: claim.p_value)
    assert float(table[smallest.text][2].split()[-1]) <= len(claims) * smallest.p_value + 0.001


def test_the_ladder_has_a_step_for_each_part_and_its_difference(sets: list[SetRuns]) -> None:
    steps_of = {"text_only": [0.2], "records_only": [0.4], "own_heads": [0.5], "hydra_personal": [0.6], "hydra": [0.55]}
    others = {"hydra_shared": [0.5], "rag_k": [0.3]}
    known = ("hydra_shared", "hydra_routed", "hydra_shuffled")
    kept = {name: (sets[0].own or {})["users"]["quality"][name] for name in known}
    whole = with_systems(dict(sets[0].own or {}), **{**kept, **steps_of, **others})
    without = {name: values for name, values in steps_of.items() if name.startswith("hydra")}
    text = with_systems(dict(sets[3].own or {}), **{**kept, **without, **others})
    page = page_of([replace(sets[0], own=whole), replace(sets[3], own=text), replace(sets[1], own=None)])
    table = rows(page, "What each part adds")
    steps = [table[step] for step in LADDER_STEPS]
    assert [step[0].split()[0] for step in steps] == ["0.200", "0.400", "0.500", "0.600", "0.550"]
    assert steps[1][0] == "0.400 (+0.200 [+0.200, +0.200])"
    assert [step[1][:5] for step in steps] == ["", "", "", "0.600", "0.550"]
    assert {step[2] for step in steps} == {"not measured"}


def test_the_gates_choices_are_shares_of_the_queries(sets: list[SetRuns]) -> None:
    table = rows(page_of(sets), "What the gate chose")
    for each in sets:
        shares = [float(cell.rstrip("%")) for cell in table[each.name][:-3]]
        assert sum(shares) == pytest.approx(100, abs=0.2)


def test_planted_samples_stand_in_the_order_of_their_size(sets: list[SetRuns], make_piece: MakePiece) -> None:
    def planted(num_records: int, num_train_users: int) -> dict[str, Any]:
        sample = {"num_records": num_records, "num_train_users": num_train_users}
        return make_piece(CLASSIFICATION, "planted", lamp={"task": "planted", "planted": sample})

    samples = {"large": planted(10, 80), "few": planted(10, 20), "short": planted(5, 80)}
    section = page_of(sets, planted=samples).split("## Planted preferences\n")[1].split("\n## ")[0]
    sizes = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| 40 \|", section, flags=re.MULTILINE)
    assert sizes == [("short", "5", "80"), ("few", "10", "20"), ("large", "10", "80")]
    assert re.search(r"in [03] of 3 samples", section)  # the same answers in all


def test_a_page_of_nothing_says_so_in_every_part(sets: list[SetRuns]) -> None:
    empty = [SetRuns(name=each.name, own=None) for each in sets]
    page = page_of(empty)
    assert page.count("NOT MEASURED") == 2 * 5
    assert "None was measured." in page
    for heading in ("What the gate chose", "Planted preferences", "By length of history", "By setting"):
        assert page.split(f"## {heading}\n\n")[1].startswith("Not measured")


def test_a_curve_over_a_setting_has_one_line_a_run(sets: list[SetRuns], make_piece: MakePiece) -> None:
    runs = [make_piece(CLASSIFICATION, "b", drafts={"num_samples": b}) for b in (8, 2)]
    table = rows(page_of(sets, curves={"news": {"drafts.num_samples": runs}}), "By setting")
    assert [label for label in table if label.isdigit()] == ["2", "8"]


def test_each_piece_has_its_date_and_whether_its_settings_were_frozen_before(sets: list[SetRuns]) -> None:
    assert sets[0].own is not None
    digests = {"news": sets[0].own["settings_digest"], "stars": "another"}
    early, late = "2026-11-30 08:00 UTC", "2026-12-01 08:00 UTC"
    for frozen, since, of_news in (
        (early, {}, "yes"),
        (late, {"news": early}, "yes"),
        (late, {}, "no: it was measured before"),
    ):
        content = {"frozen": frozen, "since": since, "digests": digests}
        page = page_of(sets, frozen=content).split("Seconds of computing")[0]
        table = rows(page, "What was measured when")
        assert table["news"][:3] == ["2026-11-30 12:00 UTC", of_news, "1 min 12 s"]
        assert table["stars"][1] == "no: they were others"
        assert table["news, published method, re-implemented, HYDRA's drafts"][0] == "not measured"
    assert "No settings are frozen." in page_of(sets)


def test_seconds_are_summed_over_the_steps_of_a_stage(sets: list[SetRuns]) -> None:
    section = page_of(sets).split("Seconds of computing each stage once")[1]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert lines[0] == ["run", "probes", "reranker", "together"]
    assert ["news", "60", "12", "72"] in lines


def test_best_of_n_stands_by_set_and_pieces_from_before_it_are_not_measured(sets: list[SetRuns]) -> None:
    pairs = synthetic_answers(CLASSIFICATION, 40)
    best = synthetic_best_of_n(CLASSIFICATION, pairs, synthetic_config().report)
    assert best is not None
    assert sets[0].own is not None
    assert sets[1].own is not None
    former = {name: value for name, value in sets[1].own.items() if name != "best_of_n"}
    page = page_of([replace(sets[0], own={**sets[0].own, "best_of_n": best}), replace(sets[1], own=former)])
    table = rows(page, "Best of N drafts")
    cells = dict(zip(table["set"], table[sets[0].name], strict=True))
    assert {size: cells[f"N = {size}"] for size in (1, 2)} == {
        point["num_drafts"]: f"{point['quality']['personal']['value']:.3f}" for point in best["points"][:2]
    }
    last = best["points"][-1]
    assert last["num_drafts"] < 16
    assert cells["N = 16"] == ""
    assert cells["oracle of all"].startswith(f"{last['oracle']['value']:.3f} [")
    assert cells["queries hacked"].startswith(f"{last['hacked_queries']['personal']['value']:.1%} [")
    assert set(table[sets[1].name]) == {"not measured"}
