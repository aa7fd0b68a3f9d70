"""Runs from Python."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from builders import run_config

import hydra_ray
from hydra_ray.api import Run, configured, load_run
from hydra_ray.errors import ConfigError, InputError, StorageError
from hydra_ray.evaluate.systems import SYSTEMS
from hydra_ray.stages import STAGE_NAMES
from hydra_ray.stages.plan import Plan
from hydra_ray.storage import join, write_json

HEAVY = ("numpy", "pyarrow", "pydantic", "yaml", "ray", "torch", "transformers")


@pytest.fixture(scope="module")
def finished(small_run: Plan) -> Run:
    return load_run(small_run.run_folder)


def test_importing_the_package_loads_nothing():
    program = f"import sys, hydra_ray; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_offers_what_it_names_and_nothing_else():
    assert all(getattr(hydra_ray, name) is not None for name in hydra_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = hydra_ray.train


def test_a_configuration_may_be_a_file_settings_or_itself(tmp_path: Path):
    config = run_config(str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert configured(path) == configured(str(path)) == configured(config.model_dump()) == configured(config) == config
    for each in (path, config, config.model_dump()):
        assert configured(each, ["drafts.num_samples=7"]).drafts.num_samples == 7
    with pytest.raises(ConfigError, match="the given configuration"):
        configured(config, ["drafts.num_samples=0"])


def test_a_relative_root_is_taken_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert configured(run_config("outputs")).storage.root == str(tmp_path / "outputs")


def test_no_run_is_an_error_that_says_where_runs_are(tmp_path: Path):
    with pytest.raises(InputError, match=r"<storage\.root>/runs/<run>"):
        load_run(tmp_path)


def test_of_a_run_that_was_only_started_nothing_is_told_but_its_state(tmp_path: Path):
    config = run_config(str(tmp_path))
    write_json(join(str(tmp_path), "runs", config.run, "config.json"), config.model_dump(mode="json"))
    started = load_run(tmp_path / "runs" / config.run)
    assert not started.is_finished
    assert not any(stage.is_complete or stage.counters for stage in started.stages())
    with pytest.raises(InputError, match="run its configuration to the end first"):
        _ = started.metrics
    with pytest.raises(StorageError, match="has no answers yet"):
        started.story("anybody")


# Third parties: what imports Ray and torch uses what others have deprecated.
finished_run = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


class TestFinishedRun:
    pytestmark = finished_run

    def test_every_stage_tells_its_time_and_counters(self, finished: Run):
        stages = finished.stages()
        assert finished.is_finished
        assert {stage.name.split(".")[0] for stage in stages} == set(STAGE_NAMES) - {"candidates"}
        assert all(stage.is_complete and stage.seconds is not None for stage in stages)
        assert next(stage for stage in stages if stage.name == "users").counters["users"] == 10

    def test_answers_have_a_row_for_each_query_and_system(self, finished: Run):
        answers = finished.answers()
        assert isinstance(answers, pa.Table)
        assert answers.num_rows == finished.metrics["num_queries"] * len(set(answers["system"].to_pylist()))
        assert set(answers["system"].to_pylist()) | {"oracle"} >= set(finished.metrics["systems"]) & set(SYSTEMS)
        keys = list(zip(*(answers[name].to_pylist() for name in ("user_id", "query_id", "system")), strict=True))
        assert len(set(keys)) == len(keys)

    def test_the_mean_quality_of_the_answers_is_that_of_the_report(self, finished: Run):
        frame = finished.to_pandas()
        means = frame.groupby("system")["quality"].mean()
        reported = finished.metrics["systems"]
        assert set(means.index) - set(reported) == {"rag_2"}  # the prompts of rag_k, where k is 2
        for system, quality in means.drop("rag_2").items():
            assert quality == pytest.approx(reported[system]["quality"]["value"])

    def test_users_are_a_table_of_everybody(self, finished: Run):
        users = finished.users()
        assert users.num_rows == 10
        assert sum(users["is_new"].to_pylist()) == 4

    def test_a_users_story_tells_what_was_chosen_and_answered(self, finished: Run):
        row = finished.to_pandas().query("system == 'hydra'").iloc[0]
        story = finished.story(row.user_id)
        assert (story.query.query_id, story.answer) == (row.query_id, row.value)
        assert story.explanation.records[0].places["retriever"] == 1
        assert {draft.value for draft in story.explanation.drafts} >= {story.answer}
        assert story.user.user_id == row.user_id
        assert finished.story(row.user_id, row.query_id) == story

    def test_who_is_not_evaluated_has_no_story(self, finished: Run):
        training = next(each for each in finished.users().to_pylist() if not each["is_new"])
        for user_id in (training["user_id"], "nobody"):
            with pytest.raises(InputError, match="is evaluated in the run test"):
                finished.story(user_id)
        new = next(each for each in finished.users().to_pylist() if each["is_new"])
        with pytest.raises(InputError, match="has no query 'other'"):
            finished.story(new["user_id"], "other")

    def test_the_report_is_where_it_is_said_to_be(self, finished: Run):
        assert Path(finished.report_path).read_text().startswith("<!doctype html>")
