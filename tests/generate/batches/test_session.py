"""Batches against a simulated endpoint: whatever goes wrong, each request is answered, or failed, and paid once."""

from pathlib import Path

from batch_server import BatchServer
from batch_stage import Stage


def test_first(server: BatchServer, tmp_path: Path):
    stage = Stage(tmp_path, server.url)
    stage.answer()
    assert stage.num_left == 0
