import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydra_ray.runs.logs import PROGRESS, JsonLines, TerminalHandler, at_work, work_names

DEMO = str(Path(__file__).parents[2] / "jobs" / "configs" / "demo.yaml")


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> io.StringIO:
    """What a logger of this test's name writes as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(request.node.name)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    return stream


def test_a_line_is_an_object_that_tells_run_stage_and_part(lines: io.StringIO, request: pytest.FixtureRequest):
    logger = logging.getLogger(request.node.name)
    with at_work(run="demo"), at_work(stage="probes"):
        logger.info("part %d is committed", 3, extra={"part": 3, "rows": 10})
    found = json.loads(lines.getvalue())
    assert found["message"] == "part 3 is committed"
    assert {"run": "demo", "stage": "probes", "part": 3, "rows": 10, "level": "INFO"}.items() <= found.items()
    assert found["time"].endswith("Z")


def test_what_is_at_work_ends_with_its_block():
    with at_work(run="a"):
        with at_work(stage="s"):
            assert work_names() == {"run": "a", "stage": "s"}
        assert work_names() == {"run": "a"}
    assert work_names() == {}


def test_of_an_error_a_line_tells_kind_and_place_and_not_what_it_says(
    lines: io.StringIO, request: pytest.FixtureRequest
):
    try:
        raise ValueError("what a user wrote")
    except ValueError:
        logging.getLogger(request.node.name).exception("the stage failed")
    found = json.loads(lines.getvalue())
    assert found["error"] == "ValueError"
    assert "test_logs.py" in found["at"][0]
    assert "what a user wrote" not in lines.getvalue()


def screen(written: str, width: int) -> list[str]:
    """Lines that a terminal shows of what is written: by its own rules, one character after the other."""
    lines, column = [""], 0
    for character in written.replace("\x1b[K", "\0"):
        if character == "\n":
            lines, column = [*lines, ""], 0
        elif character == "\r":
            column = 0
        elif character == "\0":
            lines[-1] = lines[-1][:column]
        else:
            assert column < width
            lines[-1] = f"{lines[-1][:column]}{character}{lines[-1][column + 1 :]}"
            column += 1
    return lines


def test_on_a_terminal_progress_stays_until_the_next_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    handler = TerminalHandler(stream)

    def told(name: str, text: str) -> list[str]:
        handler.handle(logging.makeLogRecord({"name": name, "msg": text, "levelno": logging.INFO}))
        return screen(stream.getvalue(), 30)

    assert told("hydra_ray.stages", "probes: starts") == ["probes: starts", ""]
    assert told(PROGRESS, "probes: 1/8 parts; 3 left") == ["probes: starts", "probes: 1/8 parts; 3 left"]
    assert told(PROGRESS, "probes: 2/8 parts") == ["probes: starts", "probes: 2/8 parts"]
    assert told(PROGRESS, f"probes: 3/8 parts{'.' * 99}")[1:] == [f"probes: 3/8 parts{'.' * 12}"]
    assert told("hydra_ray.stages", "done") == ["probes: starts", "done", ""]


@pytest.mark.parametrize(("log_format", "is_live"), [("text", True), ("json", False)])
def test_progress_is_live_on_a_terminal_and_never_in_json(log_format: str, is_live: bool):
    code = (
        "from hydra_ray.runs import logs; import logging; "
        f"logs.configure_logs('{log_format}'); logging.getLogger(logs.PROGRESS).info('7 parts: %s', logs.is_live())"
    )
    ours, theirs = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True)
        written = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert f"7 parts: {is_live}" in written
    assert ("\x1b[K" in written) == is_live


@pytest.mark.integration
@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_command_line_and_the_environment_choose_the_format(how: str, tmp_path: Path):
    option = ["--log-format", "json"] if how == "option" else []
    environment = {"HYDRA_LOG_FORMAT": "json"} if how == "environment" else {}
    command = [
        sys.executable,
        "-m",
        "hydra_ray.cli",
        *option,
        "run",
        DEMO,
        f"storage.root={tmp_path}",
        "--until",
        "users",
    ]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert found[0]["message"] == "users: starts"
    assert {"run": "demo", "stage": "users"}.items() <= found[0].items()
