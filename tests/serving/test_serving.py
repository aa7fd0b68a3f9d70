"""An exported run scores as the run itself did, knows nothing that serving needs not know, and needs no Ray."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import in_process
import pytest
from builders import run_config
from bytes_below import files_below
from damage import unnoticed
from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoModel, AutoTokenizer

from hydra_ray.adapt.answers import Scored
from hydra_ray.adapt.gate import Gate
from hydra_ray.adapt.label_model import read_label_model
from hydra_ray.cli import main
from hydra_ray.commands.status import status_lines
from hydra_ray.config import ApiConfig
from hydra_ray.errors import DamagedError, InputError
from hydra_ray.evaluate.metrics_file import read_report
from hydra_ray.forget.receipts import read_receipt
from hydra_ray.forget.removal import forget_users
from hydra_ray.generate.engines.fake import complete, fake_tokenizer
from hydra_ray.generate.parsing import failed_answer
from hydra_ray.generate.prompts import render_prompt
from hydra_ray.lamp.predictions import read_predictions
from hydra_ray.models.model_records import models_of
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Draft, Probe, Record, Request, User, from_table
from hydra_ray.runs.root import receipts_key, root_key
from hydra_ray.runs.run_folder import read_config, recorded_fingerprints
from hydra_ray.runs.stage import read_manifest
from hydra_ray.scorer.base.encoder import open_encoder
from hydra_ray.scorer.base.model import load_base
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.serving.export import export_run
from hydra_ray.serving.export_folder import read_export
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.answers import scored_users
from hydra_ray.stages.drafts import DraftsPart
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.probes import ProbesPart
from hydra_ray.stages.run import personalize
from hydra_ray.stages.tables import read_rows, read_users
from hydra_ray.storage import content_digest, read_bytes, read_json, read_part, write_json
from hydra_ray.storage.listings import read_listing

pytestmark = [
    pytest.mark.ray,
    # Third parties: what imports Ray and torch uses what others have deprecated.
    pytest.mark.filterwarnings("default"),
]
WORDS = ("old", "slow", "summer", "night", "city", "river", "quiet", "letter")


@pytest.fixture(scope="module", autouse=True)
def exactly() -> Iterator[None]:
    """Encoders compute in float32: in bfloat16 a vector depends visibly on the texts beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydra_ray.scorer.base.encoder.has_fast_bfloat16", lambda _: False)
        open_encoder.cache_clear()  # those of other modules have weights in bfloat16
        yield


@pytest.fixture(scope="module")
def runs(exactly: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """Finished runs of a closed task and of a text task."""
    folder = tmp_path_factory.mktemp("runs")
    untrained = {"base": {**run_config().adapter.base.model_dump(), "num_epochs": 0, "width": 8}}
    scorers = {"reranker": untrained, "adapter": untrained}
    (folder / "users.jsonl").write_text("\n".join(json.dumps(titles_of(n)) for n in range(12)))
    lamp = {"task": "LaMP_4", "planted": None, "users_files": [str(folder / "users.jsonl")]}
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        return {
            "closed": personalize(run_config(str(folder / "closed"), **scorers)),
            "text": personalize(run_config(str(folder / "text"), lamp=lamp, **scorers)),
        }


def titles_of(number: int) -> dict[str, object]:
    random = Random(number)

    def pair() -> tuple[str, str]:
        words = random.sample(WORDS, 4)
        return f"Once there was a {words[0]} {words[1]} and a {words[2]} {words[3]}.", f"The {words[0]} {words[1]}"

    history = [dict(zip(("input", "output"), pair(), strict=True)) for _ in range(6)]
    query = dict(zip(("input", "target"), pair(), strict=True))
    return {"user_id": f"user-{number}", "is_new": number < 5, "history": history, "queries": [query]}


@pytest.fixture(scope="module")
def exports(runs: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for name, plan in runs.items():
        export_run(plan, str(folder / name))
    return {name: folder / name for name in runs}


@pytest.fixture(scope="module")
def scorers(exports: dict[str, Path]) -> dict[str, ServedScorer]:
    return {name: load_scorer(path) for name, path in exports.items()}


def evaluated(plan: Plan) -> list[Scored]:
    return [row for bucket in plan.users.buckets for row in scored_users(plan, bucket)]


def given_of(row: Scored) -> list[Draft | Probe]:
    """Everything that the generator answered of a user's query."""
    (query,) = row.user.queries
    drafted = next(each for each in row.drafted.queries if each.query_id == query.query_id)
    probed = next(each for each in row.probed.queries if each.query_id == query.query_id)
    return [*drafted.drafts, *probed.probes]


def answered_query(plan: Plan, row: Scored) -> AnsweredQuery:
    """The run's answers to a user's query."""
    parts = (read_rows(plan.answers, "answers", bucket, AnsweredUser) for bucket in plan.answers.buckets)
    (query,) = next(part[row.user.user_id] for part in parts if row.user.user_id in part).queries
    return query


@pytest.mark.parametrize("name", ["closed", "text"])
def test_the_same_drafts_score_as_in_the_run(name: str, runs: dict[str, Plan], scorers: dict[str, ServedScorer]):
    rows = evaluated(runs[name])
    assert len(rows) >= 4
    for row in rows:
        (query,) = row.user.queries
        stored = next(each for each in row.adapter.groups if (each.variant, each.is_pseudo) == ("personal", False))
        found = scorers[name].score(row.user.user_id, query.input, given_of(row))
        expected = {each.candidate_id: each.personal for each in stored.candidates}
        assert found.by_answer == pytest.approx(expected, abs=1e-6)
        assert found.head == row.adapter.head
        assert found.choice == max(expected, key=lambda answer: expected[answer])


@pytest.mark.parametrize("name", ["closed", "text"])
def test_the_same_records_are_chosen_as_in_the_run(name: str, runs: dict[str, Plan], scorers: dict[str, ServedScorer]):
    for row in evaluated(runs[name]):
        (query,) = row.user.queries
        drafted = next(each for each in row.drafted.queries if each.query_id == query.query_id)
        (own,) = [each.record_ids for each in drafted.prompts if each.prompt == "personal"]
        chosen = scorers[name].choose_records(row.user.user_id, query.input)
        assert tuple(record.record_id for record in chosen) == own


SYSTEMS = ("zero_shot", "rag_k", "hydra_shared", "hydra_personal")
"""Systems that the gate chooses from."""
GREEDY = {("zero_shot", 0.0), ("rag_1", 0.0), ("rag_2", 0.0), ("rag_k", 0.0)}
ASKED = {
    "zero_shot": {("zero_shot", 0.0)},
    "rag_k": {("rag_k", 0.0)},
    "hydra_shared": {*GREEDY, ("rag_k", 1.0), ("shared", 0.0)},
    "hydra_personal": {*GREEDY, ("rag_k", 1.0), ("personal", 0.0)},
}
"""Prompts and temperatures behind each system's answer, by the settings of drafts."""


def gated(folder: Path, system: str) -> ServedScorer:
    """The export whose gate chose a system."""
    return ServedScorer(replace(read_export(str(folder)), gate=Gate(choice=system, reason="so it was chosen")))


def requests_of(plan: Plan, row: Scored) -> dict[tuple[str, ...], Request]:
    """The requests that the run made for a user's query, by the name of the prompt and its temperature, or by the
    record of a one-record prompt."""
    bucket = next(each for each in plan.users.buckets if row.user in read_users(plan, each))
    (query,) = row.user.queries
    asked = [*DraftsPart(plan).requests(bucket), *ProbesPart(plan).requests(bucket)]
    found = {tuple(json.loads(each.key)): each.request for each in asked}
    return {key[2:]: each for key, each in found.items() if key[:2] == (row.user.user_id, query.query_id)}


@pytest.mark.parametrize("name", ["closed", "text"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_prompts_are_those_of_the_run_and_lead_to_its_answer(
    name: str, system: str, runs: dict[str, Plan], exports: dict[str, Path]
):
    plan, scorer = runs[name], gated(exports[name], system)
    for row in evaluated(plan)[:2]:
        (query,) = row.user.queries
        expected = requests_of(plan, row)
        prompts = scorer.prompts(row.user.user_id, query.input)
        for each in prompts:
            key = each.record_ids if each.name == "probe" else (each.name, each.request.temperature)
            assert each.request == expected[key]
            assert each.text == render_prompt(each.request.messages, fake_tokenizer(), plan.config.generator)
        drafted = {(each.name, each.request.temperature) for each in prompts if each.name != "probe"}
        assert drafted == ASKED[system]
        num_probes = sum(each.name == "probe" for each in prompts)
        assert num_probes == (plan.config.probes.num_records if system.startswith("hydra") else 0)
        drafts = [draft for each in prompts for draft in each.answered(*complete(each.request).generations)]
        answers = answered_query(plan, row)
        chosen = scorer.choose(row.user.user_id, query.input, drafts)
        assert chosen.answer == next(each.value for each in answers.answers if each.system == system)
        assert (chosen.system, chosen.reason, chosen.error) == (system, "so it was chosen", None)
        every = scorer.choose(row.user.user_id, query.input, given_of(row))
        assert every == chosen


@pytest.mark.parametrize("name", ["closed", "text"])
def test_the_gate_of_the_run_chooses(name: str, runs: dict[str, Plan], scorers: dict[str, ServedScorer]):
    for row in evaluated(runs[name]):
        answered = answered_query(runs[name], row)
        chosen = scorers[name].choose(row.user.user_id, row.user.queries[0].input, given_of(row))
        expected = next(each for each in answered.answers if each.system == "hydra")
        assert (chosen.answer, chosen.error) == (expected.value, expected.error)
        assert (chosen.system, chosen.reason) == (answered.choice, answered.reason)


@pytest.mark.parametrize("name", ["closed", "text"])
def test_texts_alone_are_chosen_among_by_heads(name: str, exports: dict[str, Path]):
    for system in ("rag_k", "hydra_shared"):
        scorer = gated(exports[name], system)
        chosen = scorer.choose("nobody", "a night of comedy", ["comedy", "music", "comedy"])
        assert chosen.answer in chosen.by_answer
        assert chosen.system == ("hydra_personal" if system == "rag_k" else "hydra_shared")
    nothing = gated(exports["text"], "hydra_personal").choose("nobody", "a night", [""])
    assert (nothing.answer, nothing.error) == (None, "nothing to answer from")


def test_prompts_become_calls_of_an_endpoint(exports: dict[str, Path]):
    exported = read_export(str(exports["closed"]))
    api = ApiConfig(base_url="http://localhost", model="small", max_samples_per_call=2, has_seed=False)
    generator = exported.config.generator.model_copy(update={"api": api, "engine": "openai"})
    scorer = ServedScorer(replace(exported, config=exported.config.model_copy(update={"generator": generator})))
    scorer._drafts._tokenizer = fake_tokenizer()  # pyright: ignore[reportOptionalMemberAccess]
    prompts = {(each.name, each.request.temperature): each for each in scorer.prompts("nobody", "a night of comedy")}
    (greedy,) = prompts["zero_shot", 0.0].calls()
    assert greedy["model"] == "small"
    assert greedy["messages"][-1]["content"].endswith("a night of comedy")
    assert prompts["zero_shot", 0.0].text is None
    sampled = list(prompts["rag_k", 1.0].calls("another"))
    assert [each.get("n", 1) for each in sampled] == [2, 1]
    assert {each["model"] for each in sampled} == {"another"}
    with pytest.raises(InputError, match="asks for 1"):
        prompts["zero_shot", 0.0].answered("comedy", "music")


def test_an_export_without_a_gate_chooses_nothing(exports: dict[str, Path]):
    scorer = ServedScorer(replace(read_export(str(exports["closed"])), has_prompts=False))
    with pytest.raises(InputError, match="export the run again"):
        scorer.prompts("nobody", "a night")
    with pytest.raises(InputError, match="export the run again"):
        scorer.choose("nobody", "a night", ["comedy"])


@pytest.mark.parametrize("name", ["closed", "text"])
def test_an_unknown_user_gets_the_shared_head_with_the_history_that_is_given(
    name: str, runs: dict[str, Plan], scorers: dict[str, ServedScorer]
):
    row = evaluated(runs[name])[0]
    (query,) = row.user.queries
    scorer = scorers[name]
    found = scorer.score("nobody", query.input, given_of(row), history=row.user.history)
    assert found.head == "shared"
    assert found.choice in found.by_answer
    # The same history under the shared heads of both scorers differs from the user's own only by these heads.
    own = scorer.score(row.user.user_id, query.input, given_of(row))
    assert found.by_answer.keys() == own.by_answer.keys()


@pytest.mark.parametrize("name", ["closed", "text"])
@pytest.mark.parametrize("history", [(), (Record(record_id="1", input="a night of comedy", output="comedy"),)])
def test_whoever_has_hardly_any_history_is_scored_all_the_same(
    name: str, history: tuple[Record, ...], scorers: dict[str, ServedScorer]
):
    scorer = scorers[name]
    found = scorer.score("nobody", "a story of comedy", ["comedy", "comedy", "music"], history=history)
    assert {"comedy", "music"} <= found.by_answer.keys()
    assert all(abs(score) < 1e3 for score in found.by_answer.values())
    assert len(scorer.choose_records("nobody", "a story of comedy", history=history)) == len(history)


def test_queries_records_and_drafts_may_be_conversations(scorers: dict[str, ServedScorer]):
    question = {"role": "user", "content": "a story of comedy"}
    answer = {"role": "assistant", "content": "comedy"}
    record = Record(record_id="1", input="a story of music", output="music")
    talk = replace(record, input=[{"role": "user", "content": record.input}])  # pyright: ignore[reportArgumentType]
    scorer = scorers["closed"]
    expected = scorer.score("nobody", "a story of comedy", ["comedy"], history=[record])
    found = scorer.score("nobody", [question], [[question, answer]], history=[talk])
    assert found.by_answer == pytest.approx(expected.by_answer, abs=1e-6)
    assert scorer.choose_records("nobody", [question, answer, question], history=[talk]) == [record]
    with pytest.raises(InputError, match="draft 0 is a list whose last message is of role user"):
        scorer.score("nobody", [question], [[answer, question]])
    with pytest.raises(InputError, match="the query is an empty list"):
        scorer.score("nobody", [], ["comedy"])
    broken = replace(record, input=[{"role": "user"}])  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="record '1' is a list whose message 0 has no content"):
        scorer.score("nobody", "a", ["comedy"], history=[broken])


def test_of_a_closed_task_every_label_is_scored_whatever_was_drafted(scorers: dict[str, ServedScorer]):
    scorer = scorers["closed"]
    found = scorer.score("nobody", "a story of comedy", ["no label at all"])
    assert tuple(found.by_answer) == scorer.task.labels


def test_a_text_that_is_no_answer_is_no_candidate(scorers: dict[str, ServedScorer]):
    found = scorers["text"].score("nobody", "once there was", ["", "  "])
    assert (found.by_answer, found.choice) == ({}, None)


def test_what_is_exported_holds_histories_and_no_query_and_no_target(exports: dict[str, Path], runs: dict[str, Plan]):
    for name, folder in exports.items():
        parts = [read_part(str(path)) for path in (folder / "stages" / "users").rglob("*.parquet")]
        users = {user.user_id: user for part in parts for user in from_table(part, User)}
        whole = [user for each in runs[name].users.parts("users") for user in from_table(read_part(each), User)]
        assert users == {user.user_id: replace(user, queries=()) for user in whole}
        description = read_json(str(folder / "export.json"))
        assert description.pop("run_folder") == runs[name].run_folder
        assert str(Path(runs[name].config.storage.root).parent) not in json.dumps(description)


def test_bases_load_as_hugging_face_models(exports: dict[str, Path]):
    for name in ("reranker", "adapter", "encoder"):
        folder = exports["closed"] / name
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model(**tokenizer("a text", return_tensors="pt")).last_hidden_state.shape[2] == model.config.hidden_size


def test_the_card_says_what_was_measured_and_what_forgetting_does_not_reach(
    exports: dict[str, Path], runs: dict[str, Plan]
):
    text = (exports["closed"] / "README.md").read_text()
    metrics = read_json(f"{runs['closed'].run_folder}/metrics.json")
    main = metrics["metrics"][0]["name"]
    for system in metrics["systems"].values():
        assert f"| {system['title']} | {system['metrics'][main]['value']:.3f} |" in text
    assert "10 users with 80 records; 6 of them taught, 4 were evaluated" in text
    assert "`hydra-ray forget` does not reach it" in text
    card = ModelCard(text).data
    assert card.library_name == "transformers"
    assert card.base_model is None  # that of a package is not on the hub
    assert {each.metric_type: each.metric_value for each in card.eval_results or ()} == {
        each["name"]: round(metrics["systems"]["hydra"]["metrics"][each["name"]]["value"], 4)
        for each in metrics["metrics"]
    }
    text = (exports["closed"] / "DATA.md").read_text()
    assert DatasetCard(text).data.task_categories == ["text-classification"]
    assert DatasetCard(text).data.size_categories == "n<1K"
    assert "10 users with 80 records" in text
    assert "# HYDRA adapter: base" in (exports["closed"] / "adapter" / "README.md").read_text()


def test_an_export_is_never_mixed_with_another_nor_made_of_half_a_run(
    exports: dict[str, Path], runs: dict[str, Plan], tmp_path: Path
):
    with pytest.raises(InputError, match="is not empty"):
        export_run(runs["closed"], str(exports["text"]))
    with pytest.raises(InputError, match="below the storage root"):
        export_run(runs["closed"], f"{runs['closed'].config.storage.root}/export")
    with pytest.raises(InputError, match="is not finished"):
        export_run(plan_run(run_config(str(tmp_path))), str(tmp_path / "export"))


def test_what_is_no_export_is_refused(exports: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no export\.json"):
        load_scorer(tmp_path)
    description = read_json(str(exports["closed"] / "export.json"))
    write_json(str(tmp_path / "export.json"), {**description, "format": 0})
    with pytest.raises(InputError, match="of format 0, expected 1"):
        load_scorer(tmp_path)
    with pytest.raises(InputError, match="copy the export first"):
        load_scorer("s3://bucket/export")


def test_scoring_imports_no_ray(exports: dict[str, Path]):
    program = (
        "import sys; from hydra_ray import load_scorer; "
        f"print(load_scorer({str(exports['closed'])!r}).score('nobody', 'a query', ['comedy']).head); "
        "print([name for name in ('ray', 'vllm', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["shared", "[]"]


def test_the_command_makes_the_same_export(runs: dict[str, Plan], exports: dict[str, Path], tmp_path: Path):
    assert main(["export", runs["closed"].run_folder, str(tmp_path / "export")]) == 0
    made, before = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.suffix in (".json", ".md")}
        for folder in (tmp_path / "export", exports["closed"])
    )
    assert made == before


def test_users_of_buckets_that_were_not_exported_are_unknown(exports: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "export"
    shutil.copytree(exports["closed"], folder)
    listed = read_json(str(folder / "export.json"))
    for path in (folder / "stages").rglob("bucket-*.parquet"):
        path.unlink()
    for path in (folder / "stages").rglob("manifest.json"):
        files = read_json(str(path))["files"]
        write_json(str(path), {"files": {name: files[name] for name in files if not name.endswith(".parquet")}})
        listed["files"][str(path.relative_to(folder))] = content_digest(str(path))
    write_json(str(folder / "export.json"), listed)
    assert load_scorer(folder).score("nobody", "a story", ["comedy"]).head == "shared"


@pytest.mark.parametrize("name", ["closed", "text"])
def test_without_probes_the_reranker_has_no_say(name: str, scorers: dict[str, ServedScorer], runs: dict[str, Plan]):
    scorer, row = scorers[name], evaluated(runs[name])[0]
    (query,) = row.user.queries
    drafts = next(each for each in row.drafted.queries if each.query_id == query.query_id).drafts
    retrieved = next(each for each in row.probed.queries if each.query_id == query.query_id).retrieved
    unknown = failed_answer("not asked")
    if scorer.task.labels:
        unknown = replace(unknown, label_probabilities=(1 / len(scorer.task.labels),) * len(scorer.task.labels))
    probes = [Probe(record_id=each.record_id, answer=unknown, quality=None) for each in retrieved]
    weighed = scorer.score(row.user.user_id, query.input, [*drafts, *probes])
    assert weighed.by_answer == pytest.approx(scorer.score(row.user.user_id, query.input, drafts).by_answer, abs=1e-6)


def test_no_damage_to_a_file_of_a_finished_run_goes_unnoticed(runs: dict[str, Plan], tmp_path: Path):
    plan, root = runs["closed"], str(tmp_path / "root")
    shutil.copytree(plan.users.root, root)
    forget_users(root, [evaluated(plan)[0].user.user_id])
    kinds: set[str] = set()
    missed: list[str] = []
    for name, path in files_below(root).items():
        kinds.add(name.split("/")[0] if "/" not in name else path.suffix + name.split("/")[0])
        missed += unnoticed(path, partial(reader_of(name), root, path))
    assert missed == []
    assert kinds >= {"key", "key.check", ".parquetcompletions", ".jsonforgotten", ".jsonruns"}


def reader_of(name: str) -> Callable[[str, Path], object]:
    """The reader that the product reads a file below a root by."""
    return next(reader for pattern, reader in READERS.items() if re.fullmatch(pattern, name))


READERS: dict[str, Callable[[str, Path], object]] = {
    r"key(\.check)?": lambda root, _: root_key(root),
    r"forgotten/key\.check": lambda root, _: receipts_key(root),
    r"forgotten/.+": lambda root, path: read_receipt(root, path.stem),
    r"models/.+": lambda root, _: models_of(run_config(root)),
    r".+\.parquet": lambda _, path: read_part(str(path)),
    r".+/population-0/population.+": lambda _, path: read_prior(str(path.parent)),
    r".+/base/[^/]+": lambda _, path: load_base(str(path.parent)),
    r".+/labeller\.safetensors": lambda _, path: read_label_model(str(path.parent)),
    r".+/manifest\.json": lambda _, path: read_manifest(str(path)),
    r"runs/.+/files\.json": lambda _, path: read_listing(str(path)),
    r"runs/.+/config\.json": lambda _, path: read_config(str(path.parent)),
    r"runs/.+/outline\.json": lambda _, path: list(status_lines(str(path.parent))),
    r"runs/.+/stages\.json": lambda _, path: recorded_fingerprints(str(path.parent)),
    r".+/predictions\.json": lambda _, path: read_predictions(str(path)),
    r".+/metrics\.json": lambda _, path: read_report(str(path.parent)),
    r".+": lambda _, path: read_bytes(str(path)),
}
"""Readers by the paths of the files that they read; the first that fits counts."""


def test_no_damage_to_a_file_of_an_export_goes_unnoticed(exports: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "export"
    shutil.copytree(exports["closed"], folder)
    listed = read_json(str(folder / "export.json"))
    for path in (folder / name for name in listed["files"] if name.endswith(".safetensors")):
        path.write_bytes(b"weights")  # of a size that can be read again and again
        listed["files"][str(path.relative_to(folder))] = content_digest(str(path))
    write_json(str(folder / "export.json"), listed)

    def opened(path: Path) -> None:
        read_export(str(folder))
        if path.suffix == ".parquet":  # of which only the footer is read when an export is opened
            read_part(str(path))

    paths = files_below(str(folder)).values()
    assert [each for path in paths for each in unnoticed(path, partial(opened, path))] == []


def test_an_export_with_a_missing_bucket_is_refused(exports: dict[str, Path], tmp_path: Path):
    shutil.copytree(exports["closed"], tmp_path / "export")
    next((tmp_path / "export" / "stages").rglob("fold-0/bucket-00000.parquet")).unlink()
    with pytest.raises(DamagedError, match=r"lacks 1 of its .* files, .*bucket-00000.*Export the run"):
        load_scorer(tmp_path / "export")


def test_an_export_with_parts_of_another_one_is_refused(exports: dict[str, Path], tmp_path: Path):
    shutil.copytree(exports["closed"], tmp_path / "export")
    first, second = sorted((tmp_path / "export" / "stages" / "adapter" / "heads").rglob("bucket-*.parquet"))
    shutil.copyfile(second, first)
    with pytest.raises(
        DamagedError, match=rf"damaged or not its own, such as {tmp_path}.*/heads/.*/fold-0/bucket-00000"
    ):
        load_scorer(tmp_path / "export")


def test_an_export_of_an_earlier_version_still_opens(exports: dict[str, Path], tmp_path: Path):
    shutil.copytree(exports["closed"], tmp_path / "export")
    description = tmp_path / "export" / "export.json"
    listed = json.loads(description.read_text())
    del listed["files"], listed["checksum"]
    description.write_text(json.dumps(listed))
    for path in (tmp_path / "export" / "stages").rglob("manifest.json"):
        path.unlink()
    assert load_scorer(tmp_path / "export").score("nobody", "a story", ["comedy"]).head == "shared"
