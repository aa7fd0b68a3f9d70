"""Failed answers from end to end, in this process instead of Ray's: told, counted, and asked again, and no others."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import in_process
import pytest
from builders import run_config

from hydra_ray.cli import main
from hydra_ray.commands.retry import clear_failures, failed_stages, runs_to_repeat
from hydra_ray.config import RunConfig
from hydra_ray.errors import GenerationError, StorageError
from hydra_ray.generate.engine import Keep, keep_nowhere
from hydra_ray.generate.engines.fake import FakeEngine, complete
from hydra_ray.generate.failures import ERRORS, FailureKind
from hydra_ray.rows import Completion, Failure, Prompt, arrow_schema, from_table
from hydra_ray.runs.lease import lease, run_lease
from hydra_ray.runs.run_folder import record_stages
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize
from hydra_ray.storage import exists, read_part

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@dataclass
class Generator:
    """Fails at some requests, and knows all that it was asked."""

    kind: FailureKind | None = None
    """How it fails; None while it works."""
    period: int = 5
    """It fails at about one of so many requests."""
    asked: list[str] = field(default_factory=list)

    def is_failing(self, request_id: str) -> bool:
        return int(request_id, 16) % self.period == 0

    async def __call__(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        self.asked += [prompt.request.request_id for prompt in prompts]
        completions = [self._completion(complete(prompt.request)) for prompt in prompts]
        keep(completions)
        return completions

    def _completion(self, made: Completion) -> Completion:
        if self.kind is None or not self.is_failing(made.request_id):
            return made
        return replace(made, generations=(), error="no answer", failure=self.kind, attempts=3)


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Generator]:
    in_process.install(monkeypatch)
    generator = Generator()
    monkeypatch.setattr(FakeEngine, "answer", generator)
    return generator


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return run_config(str(tmp_path), users={"num_buckets": 4})


def run(config: RunConfig) -> Plan:
    return personalize(config, until="probes")


def failures(plan: Plan) -> list[Failure]:
    return [
        row
        for stage in (plan.profiles, plan.probes)
        for location in stage.parts(ERRORS)
        for row in from_table(read_part(location, arrow_schema(Failure)), Failure)
    ]


def parts(plan: Plan) -> dict[str, str]:
    """Every part of the stages that asked, by place; what tells seconds is left out."""
    tables = [(plan.profiles, "profiles"), (plan.probes, "probes"), (plan.profiles, ERRORS), (plan.probes, ERRORS)]
    return {
        location: str(read_part(location).to_pylist()) for stage, table in tables for location in stage.parts(table)
    }


def failed_ids(generator: Generator, request_ids: Collection[str]) -> set[str]:
    return {each for each in request_ids if generator.is_failing(each)}


def test_every_failure_is_a_row_and_counted_and_there_are_no_others(config: RunConfig, generator: Generator):
    generator.kind = FailureKind.TIMEOUT
    plan = run(config)
    rows = failures(plan)
    assert {row.request_id for row in rows} == failed_ids(generator, generator.asked) != set()
    assert {(row.kind, row.sample, row.attempts) for row in rows} == {("timeout", None, 3)}
    manifests = [stage.manifest()["counters"] for stage in (plan.profiles, plan.probes)]
    assert sum(each.get("failed.timeout", 0) for each in manifests) == len(rows)


def test_a_retry_asks_what_failed_and_nothing_else_and_ends_as_if_nothing_had_failed(
    config: RunConfig, generator: Generator, tmp_path_factory: pytest.TempPathFactory
):
    root = str(tmp_path_factory.mktemp("undisturbed"))
    undisturbed = run(config.model_copy(update={"storage": config.storage.model_copy(update={"root": root})}))
    expected = {place.removeprefix(root): content for place, content in parts(undisturbed).items()}
    generator.kind, generator.asked = FailureKind.UNAVAILABLE, []
    plan = run(config)
    untouched = {
        place: Path(place).stat().st_mtime_ns
        for stage in (plan.profiles, plan.probes)
        for place, errors in zip(stage.parts(stage.name), stage.parts(ERRORS), strict=True)
        if not read_part(errors).num_rows
    }
    wanted = failed_ids(generator, generator.asked)
    generator.kind, generator.asked = None, []
    clear_failures(plan, [FailureKind.UNAVAILABLE])
    run(config)
    assert sorted(generator.asked) == sorted(wanted)
    assert {place.removeprefix(str(config.storage.root)): content for place, content in parts(plan).items()} == expected
    assert {place: Path(place).stat().st_mtime_ns for place in untouched} == untouched


def test_what_was_made_of_failed_answers_goes_in_all_runs_and_the_rest_stays(config: RunConfig, generator: Generator):
    generator.kind = FailureKind.TIMEOUT
    generator.period = 3
    plan = run(config)
    other = plan_run(config.model_copy(update={"run": "other", "drafts": replace_samples(config, 2)}))
    for each in (plan, other):
        for stage in each.stages():
            if not stage.is_complete():
                stage.complete(0, {})
        record_stages(each.run_folder, each.stages())
    cleared = clear_failures(plan, [FailureKind.TIMEOUT])
    changed = {each.stage.name for each in cleared}
    assert "probes" in changed
    complete = {stage.name for each in (plan, other) for stage in each.stages() if stage.is_complete()}
    assert complete == {"users", "profiles", "adapter.labeller", "adapter.own", "adapter.codes"} - changed
    assert not any(exists(stage.folder) for stage in (plan.drafts, other.drafts, other.report))
    assert runs_to_repeat(plan, cleared) == [other.run_folder]


def replace_samples(config: RunConfig, num_samples: int):
    return config.drafts.model_copy(update={"num_samples": num_samples})


def test_what_would_end_alike_is_asked_again_only_on_demand(config: RunConfig, generator: Generator, capsys):
    generator.kind = FailureKind.REFUSED
    plan = run(config)
    refused = failed_ids(generator, generator.asked)
    generator.asked = []
    assert clear_failures(plan, [FailureKind.TIMEOUT]) == []
    run(config)
    assert generator.asked == []
    generator.kind = None
    clear_failures(plan, [FailureKind.REFUSED])
    run(config)
    assert set(generator.asked) == refused
    assert failed_stages(plan) == []


def test_too_many_failures_stop_the_run_after_the_commit_and_a_retry_goes_on(config: RunConfig, generator: Generator):
    generator.kind, generator.period = FailureKind.ENGINE, 1
    with pytest.raises(GenerationError, match=r"stage profiles: 4 of 4 .*engine 4"):
        run(config)
    plan = plan_run(config)
    assert plan.profiles.missing_buckets("profiles") == []
    assert not plan.profiles.is_complete()
    with pytest.raises(GenerationError, match="stage profiles"):
        run(config)
    generator.kind, generator.asked = None, []
    clear_failures(plan, [FailureKind.ENGINE])
    assert run(config).probes.is_complete()
    assert len(generator.asked) == len(set(generator.asked))


def test_a_larger_share_of_failures_can_be_allowed_and_changes_no_fingerprint(config: RunConfig, generator: Generator):
    generator.kind, generator.period = FailureKind.ENGINE, 1
    allowed = config.model_copy(update={"generator": config.generator.model_copy(update={"max_failed_fraction": 1.0})})
    plan = run(allowed)
    assert plan.probes.is_complete()
    assert [stage.fingerprint for stage in plan_run(config).stages()][:-1] == [
        stage.fingerprint for stage in plan.stages()
    ][:-1]


def test_the_command_tells_what_it_asks_again_and_what_it_does_not(
    config: RunConfig, generator: Generator, capsys, monkeypatch
):
    monkeypatch.setattr("hydra_ray.stages.run.personalize", run)
    generator.kind = FailureKind.TIMEOUT
    plan = run(config)
    generator.kind = None
    assert main(["retry", plan.run_folder, "--kind", "refused"]) == 0
    assert "timeout not retried; to do so: --kind timeout" in capsys.readouterr().out
    assert main(["retry", plan.run_folder]) == 0
    assert "timeout retried, in" in capsys.readouterr().out
    assert main(["retry", plan.run_folder]) == 0
    assert "no answer failed" in capsys.readouterr().out
    assert main(["retry", plan.run_folder, "--kind", "bad luck"]) == 2
    assert "expected ['cut'" in capsys.readouterr().err


def test_while_a_run_is_under_way_nothing_is_cleared(config: RunConfig, generator: Generator):
    generator.kind = FailureKind.TIMEOUT
    plan = run(config)
    before = parts(plan)
    with lease(run_lease(config.storage.root, "other"), "another run"), pytest.raises(StorageError, match="is active"):
        clear_failures(plan, [FailureKind.TIMEOUT])
    assert parts(plan) == before
    assert plan.probes.is_complete()
