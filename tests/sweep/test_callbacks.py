import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tensorboardX import event_file_writer

from hydra_ray.runs.signals import Stopped, stops_gracefully
from hydra_ray.sweep.callbacks import EventWriter


@dataclass(frozen=True)
class Trial:
    local_path: str
    evaluated_params: dict[str, Any] = field(default_factory=dict, hash=False)

    def init_local_path(self) -> None:
        pass


@pytest.mark.filterwarnings("default")  # Third parties: tensorboardX and protobuf use what is deprecated.
def test_a_stop_leaves_no_thread_that_still_writes_a_trials_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = event_file_writer.EventsWriter.write_event
    closed = event_file_writer.EventFileWriter.close
    closing = threading.Event()

    def slow(self: Any, event: Any) -> Any:
        time.sleep(0.05)
        return written(self, event)

    def close(self: Any) -> None:
        closing.set()
        closed(self)

    def stop() -> None:
        closing.wait()
        time.sleep(0.1)  # into the wait for the thread
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", slow)
    monkeypatch.setattr(event_file_writer.EventFileWriter, "close", close)
    trial: Any = Trial(str(tmp_path))
    callback = EventWriter()
    callback.log_trial_start(trial)
    for step in range(10):
        callback.log_trial_result(step, trial, {"training_iteration": step, "quality": 0.5})
    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Stopped), stops_gracefully():
        callback.log_trial_end(trial)
    stopper.join()
    assert not [each for each in threading.enumerate() if isinstance(each, event_file_writer._EventLoggerThread)]
