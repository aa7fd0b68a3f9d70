"""Logging of runs: text lines for people, or one JSON object a line for machines.

Every line carries its run, stage and part. No line may contain text of users: messages name locations and numbers, and
JSON lines record an exception's class and stack frames, never its message.
"""

import json
import logging
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]
FORMATS: tuple[LogFormat, ...] = ("text", "json")
FORMAT_VARIABLE = "HYDRA_LOG_FORMAT"
"""Environment variable that selects the format where the command line does not, as in a submitted job."""
PROGRESS = "hydra_ray.progress"
"""Logger of lines that count only until the next one: on a terminal each takes the place of the last."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_at_work: ContextVar[dict[str, str]] = ContextVar("at_work", default={})  # noqa: B039 (never mutated)


def configure_logs(log_format: str) -> None:
    """Send this process's log to stderr; with JSON, at debug level, so that every part is logged.

    Args:
        log_format: one of FORMATS.
    """
    is_watched = log_format == "text" and sys.stderr.isatty()
    handler = TerminalHandler(sys.stderr) if is_watched else logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if log_format == "json":
        logging.getLogger("hydra_ray").setLevel(logging.DEBUG)


def is_live() -> bool:
    """Return whether progress is shown on a terminal, where a line a second disturbs nobody."""
    return any(isinstance(handler, TerminalHandler) for handler in logging.getLogger().handlers)


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to a terminal; a line of PROGRESS stays until the next line of any kind is written in its place."""

    _CLEAR = "\x1b[K"

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A line of progress is cut to the terminal's width, so that it can be overwritten."""
        try:
            text = self.format(record)
            if record.name == PROGRESS:
                # The cursor waits at the line's beginning: what others write, as Ray's workers, begins there too.
                self.stream.write(f"{self._CLEAR}{text[: shutil.get_terminal_size().columns - 1]}\r")
            else:
                self.stream.write(f"{self._CLEAR}{text}\n")
            self.flush()
        except Exception:
            self.handleError(record)


@contextmanager
def at_work(**names: str) -> Iterator[None]:
    """Attach names such as run and stage to this thread's log lines and metrics within the block."""
    token = _at_work.set({**_at_work.get(), **names})
    try:
        yield
    finally:
        _at_work.reset(token)


def work_names() -> dict[str, str]:
    """Return the run and the stage being worked on, as far as they are known."""
    return dict(_at_work.get())


class JsonLines(logging.Formatter):
    """Formats each record as one JSON object, including whatever the record was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of a record."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **work_names(),
            **{name: value for name, value in record.__dict__.items() if name not in _STANDARD},
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line, ensure_ascii=False, default=str)
