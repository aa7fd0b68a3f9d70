from pathlib import Path

import pytest
from builders import run_config

from hydra_ray import storage
from hydra_ray.stages.plan import Plan, plan_run


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    """A run of which nothing but its settings is there."""
    plan = plan_run(run_config(str(tmp_path / "root"), users={"num_folds": 2}))
    storage.write_json(storage.join(plan.run_folder, "config.json"), {})
    return plan
