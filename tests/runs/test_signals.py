import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from hydra_ray import cli
from hydra_ray.runs.logs import at_work, work_names
from hydra_ray.runs.signals import (
    Stopped,
    begin_aside,
    call_aside,
    defers_stop,
    own_handlers,
    require_not_stopped,
    stops_gracefully,
)

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", STATUS)
def test_the_first_signal_raises_and_handlers_are_given_back(number: signal.Signals):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as raised, stops_gracefully():
        os.kill(os.getpid(), number)
    assert raised.value.exit_status == STATUS[number]
    assert signal.getsignal(number) is before


def test_a_stop_that_was_swallowed_is_raised_at_the_next_look():
    with stops_gracefully():
        with suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            require_not_stopped()
    require_not_stopped()


def test_a_stop_waits_for_the_end_of_what_must_not_be_interrupted():
    done: list[str] = []

    def work() -> None:
        with defers_stop():
            with defers_stop():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    with pytest.raises(Stopped) as raised, stops_gracefully():
        work()
    assert done == ["inner", "outer"]
    assert raised.value.signal_number == signal.SIGTERM


def test_an_error_is_not_hidden_by_a_stop_that_waits():
    def fail() -> None:
        with defers_stop():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), stops_gracefully():
        fail()


@pytest.mark.parametrize("number", STATUS)
def test_the_second_signal_ends_the_program_at_once(number: signal.Signals):
    code = (
        "import os, sys\nfrom hydra_ray.runs.signals import Stopped, stops_gracefully\n"
        "with stops_gracefully():\n"
        f"    try:\n        os.kill(os.getpid(), {number})\n"
        f"    except Stopped:\n        print('first', flush=True); os.kill(os.getpid(), {number}); print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.stdout, done.returncode) == ("first\n", STATUS[number])


def test_a_librarys_handler_does_not_stay_in_the_place_of_ours():
    with stops_gracefully():
        with own_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_where_signals_are_not_ours_a_librarys_handler_stays(monkeypatch: pytest.MonkeyPatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with own_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", STATUS)
def test_a_stop_stays_one_where_a_library_says_that_the_keyboard_interrupted_it(number: signal.Signals):
    def library() -> None:
        with suppress(Stopped):
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    with pytest.raises(Stopped) as caught, stops_gracefully():
        library()
    assert caught.value.signal_number == number


def test_work_aside_knows_its_run_and_tells_what_it_raised():
    with at_work(run="mine"):
        found = begin_aside(work_names)
    assert found.result(timeout=10) == {"run": "mine"}
    with pytest.raises(ZeroDivisionError):
        begin_aside(lambda: 1 / 0).result(timeout=10)


def test_what_is_called_aside_returns_raises_and_runs_in_another_thread():
    def nothing() -> None:
        pass

    assert call_aside(threading.current_thread, nothing) is not threading.main_thread()
    with pytest.raises(ZeroDivisionError):
        call_aside(lambda: 1 / 0, nothing)


def test_what_is_called_aside_is_watched_until_it_ends():
    release = threading.Event()
    watched: list[threading.Thread] = []

    def watch() -> None:
        watched.append(threading.current_thread())
        if len(watched) == 3:
            release.set()

    assert call_aside(release.wait, watch, seconds=0.01)
    assert set(watched) == {threading.main_thread()}


def test_a_signal_interrupts_the_wait_for_what_is_called_aside():
    release = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        release.wait()

    with pytest.raises(Stopped), stops_gracefully():
        call_aside(work, lambda: None)
    release.set()


@pytest.mark.parametrize("number", STATUS)
def test_a_stopped_command_says_what_to_type_to_resume(number: signal.Signals, monkeypatch, capsys):
    monkeypatch.setattr("hydra_ray.api.configured", lambda *_: os.kill(os.getpid(), number))
    assert cli.main(["run", "my config.yaml", "users.num_buckets=4"]) == STATUS[number]
    assert capsys.readouterr().err.endswith("  hydra-ray run 'my config.yaml' users.num_buckets=4\n")


def test_a_stopped_job_says_what_to_submit_to_resume(monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr(sys, "argv", ["jobs/personalize.py", "jobs/configs/demo.yaml"])
    monkeypatch.setattr("hydra_ray.api.configured", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["run", *sys.argv[1:]]) == 143
    resumed = "  ray job submit --working-dir . -- python jobs/personalize.py jobs/configs/demo.yaml\n"
    assert capsys.readouterr().err.endswith(resumed)
