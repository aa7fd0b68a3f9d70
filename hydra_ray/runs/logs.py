"""What runs tell while they work: lines for people, or one JSON object a line for machines.

Every line knows the run, the stage and the part that it is about. None may hold what users wrote: messages name places
and numbers, and of an error JSON lines tell its kind and where it arose, never what it says.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

LogFormat = Literal["text", "json"]
FORMATS: tuple[LogFormat, ...] = ("text", "json")
FORMAT_VARIABLE = "HYDRA_LOG_FORMAT"
"""Environment variable that chooses the format where the command line does not, as in a submitted job."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_at_work: ContextVar[dict[str, str]] = ContextVar("at_work", default={})  # noqa: B039 (it is never changed in place)


def configure_logs(log_format: str) -> None:
    """Write this process's log to stderr; as JSON it also tells every part.

    Args:
        log_format: one of FORMATS.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines()
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if log_format == "json":
        logging.getLogger("hydra_ray").setLevel(logging.DEBUG)


@contextmanager
def at_work(**names: str) -> Iterator[None]:
    """Within it, lines and metrics of this thread are about this run or this stage."""
    token = _at_work.set({**_at_work.get(), **names})
    try:
        yield
    finally:
        _at_work.reset(token)


def work_names() -> dict[str, str]:
    """What is being worked on: run and stage, as far as they are known."""
    return dict(_at_work.get())


class JsonLines(logging.Formatter):
    """One JSON object a line; what a record was given as `extra` is among its keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
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
