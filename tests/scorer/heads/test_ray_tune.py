import os
import signal
import time

import pytest

from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.errors import TrainingError
from hydra_ray.runs.signals import Stopped, stops_gracefully
from hydra_ray.scorer.heads.ray_tune import run_trials
from hydra_ray.storage import exists, join, write_bytes

GRID = {"fold": [0, 1], "buckets": [[0, 2], [1]]}


@pytest.fixture(scope="module")
def own_ray():
    """A Ray that ends with this module, whose stopped trials go on holding its CPUs."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")


@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
def test_each_point_of_the_grid_is_worked_on_also_where_a_trial_fails_once(tmp_path, capfd):
    folder = str(tmp_path)

    def work(settings):
        name = f"{settings['fold']}-{settings['buckets'][0]}"
        if name == "1-1" and not exists(join(folder, "failed")):
            write_bytes(join(folder, "failed"), b"")
            raise RuntimeError("killed")
        write_bytes(join(folder, name), b"")
        return {"loss": settings["fold"] + 0.1}

    found = run_trials(work, GRID, join(folder, "stage"))
    assert sorted((point["fold"], point["buckets"], metrics) for point, metrics in found) == [
        (fold, buckets, {"loss": fold + 0.1}) for fold in (0, 1) for buckets in ([0, 2], [1])
    ]
    assert all(exists(join(folder, name)) for name in ("0-0", "0-1", "1-0", "1-1", "failed"))
    assert capfd.readouterr().out == ""


@pytest.mark.filterwarnings("default")
def test_fits_at_the_same_time_have_trainables_of_different_names(tmp_path, monkeypatch):
    from ray import tune

    names = []

    class Results(list):
        errors = ()

    class Tuner:
        def __init__(self, trainable, **_):
            names.append(trainable.__name__)

        def fit(self):
            return Results([])

    monkeypatch.setattr(tune, "Tuner", Tuner)
    for _ in range(2):
        run_trials(lambda _: {}, GRID, str(tmp_path))
    assert len(set(names)) == 2


@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
def test_what_a_trial_fails_of_is_told(tmp_path):
    def work(settings):
        raise ValueError(f"no heads in fold {settings['fold']}")

    with pytest.raises(TrainingError, match=r"1 of 1 trials failed[^$]*no heads in fold 7"):
        run_trials(work, {"fold": [7]}, str(tmp_path), max_concurrent_trials=1)


@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
@pytest.mark.filterwarnings("default")  # Third parties: Ray uses what others have deprecated.
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_wait_for_trials(tmp_path, number):
    driver = os.getpid()
    start_ray()  # as every run does: it keeps Tune from taking Ctrl-C for itself

    def work(_):
        os.kill(driver, number)
        time.sleep(600)

    with pytest.raises(Stopped), stops_gracefully():
        run_trials(work, {"fold": [7]}, str(tmp_path), max_concurrent_trials=1)
