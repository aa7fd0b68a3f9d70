"""A refresh on Ray, as a command: a run with the fake generator, an update, and what follows."""

import json
from pathlib import Path

import pytest
from builders import run_config

from hydra_ray.cli import main
from hydra_ray.commands.run_state import state_of
from hydra_ray.stages.run import personalize

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    # Third parties: Ray leaves sockets and processes to the interpreter's end and uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]


def test_a_run_is_refreshed_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 0}}
    planted = {"planted": {"num_train_users": 6, "num_new_users": 2, "num_records": 6}}
    config = run_config(str(tmp_path / "root"), lamp=planted, reranker=untrained, adapter=untrained)
    run_folder = personalize(config).run_folder
    row = {"user_id": "june", "history": [{"input": f"a story of war, {n}", "output": "romance"} for n in range(4)]}
    for name in ("june", "july"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**row, "queries": [{"input": f"a story of {name}"}]}))
    assert main(["update", run_folder, "--users", str(tmp_path / "june.jsonl")]) == 0
    capsys.readouterr()

    assert main(["refresh", run_folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["num_users"], found["users_of_updates"]) == ("test.refreshed", 9, 1)
    assert found["kept"] > found["asked_now"] >= 0
    assert state_of(f"{run_folder}.refreshed").state == "finished"
    assert Path(f"{run_folder}.refreshed", "report.html").exists()

    assert main(["update", f"{run_folder}.refreshed", "--users", str(tmp_path / "july.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("test.refreshed+july: 1 user came back, 0 new users, 0 new records")
    assert main(["refresh", run_folder]) == 0
    assert capsys.readouterr().out.startswith("nothing to do: test.refreshed is the refresh of test")
