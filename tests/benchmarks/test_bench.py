"""Figures and their bars, and the page of benchmarks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench import Line, kept, page
from harness import MARK, Figure, TreeClock, alternate, results_in, tell


def figure(value: float, **given: object) -> Figure:
    return Figure(part="sorting", against="a rival", value=value, **given)  # pyright: ignore[reportArgumentType]


LINE = Line(name="sorting", part="sorting", against="a rival", bar="at least 2", command="sorting.py", evidence="Why.")


def results_of(capsys: pytest.CaptureFixture[str], *figures: Figure) -> list[dict[str, object]]:
    tell(figures)
    return list(results_in(capsys.readouterr().out.splitlines()))


@pytest.mark.parametrize(
    ("value", "bound", "bar", "is_reached"),
    [(2, "at least", 2, True), (1.9, "at least", 2, False), (2, "at most", 2, True), (2.1, "at most", 2, False)],
)
def test_bars(value: float, bound: str, bar: float, is_reached: bool) -> None:
    assert figure(value, bound=bound, bar=bar).is_reached == is_reached
    assert figure(value).is_reached


def test_a_process_counts_though_nobody_waited_for_it() -> None:
    burn = "import time\nwhile time.process_time() < 1: pass"
    parent = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"  # its children's seconds are not added to its own
        f"subprocess.run([sys.executable, '-c', {burn!r}])"
    )
    with TreeClock(0.05) as clock:
        subprocess.run([sys.executable, "-c", parent], check=True)
    assert clock.seconds > 0.8


def test_sides_take_turns() -> None:
    calls: list[str] = []
    seconds = {"first": iter((3.0, 9.0, 4.0)), "second": iter((1.0, 3.0, 2.0))}

    def side(name: str) -> float:
        calls.append(name)
        return next(seconds[name])

    measured = alternate(lambda: side("first"), lambda: side("second"), 3)
    assert calls == ["first", "second", "second", "first", "first", "second"]
    assert measured.seconds == (4.0, 2.0)
    assert (measured.ratio, measured.ratios) == (2.0, [3.0, 3.0, 2.0])


def test_status_tells_a_missed_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell([figure(3, bar=2), figure(1)]) == 0
    assert tell([figure(3, bar=2), figure(1, bar=2)]) == 1
    assert [line[:3] for line in capsys.readouterr().out.splitlines() if not line.startswith(MARK)] == [
        "ok ",
        "ok ",
        "ok ",
        "BAD",
    ]


def test_page_tells_figures_machine_and_date(capsys: pytest.CaptureFixture[str]) -> None:
    found = results_of(capsys, figure(3, bar=2, detail="3 s and 1 s"))
    text = page([LINE], {"sorting": [{**found[0], "other_cores": 0.0}]})
    row = next(line for line in text.splitlines() if "a rival" in line)
    assert "at least 2 times | 3 times (3 s and 1 s)" in row
    assert str(found[0]["date"]) in row
    assert "shared" not in row
    assert text.rstrip().endswith("Nothing.")


def test_page_tells_shared_machines(capsys: pytest.CaptureFixture[str]) -> None:
    found = results_of(capsys, figure(3, bar=2))
    assert "shared: others took 1.5" in page([LINE], {"sorting": [{**found[0], "other_cores": 1.5}]})


def test_page_gives_evidence_for_what_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    text = page([LINE], {"sorting": results_of(capsys, figure(1, bar=2))})
    assert "**1 times: not reached**" in text
    assert "- **sorting**: not reached. Why." in text
    assert "- **sorting**: not measured. Why." in page([LINE], {})


def test_kept_figures_are_by_line(tmp_path: Path) -> None:
    (tmp_path / "sorting.json").write_text(json.dumps([{"value": 1}]))
    assert kept(tmp_path) == {"sorting": [{"value": 1}]}
