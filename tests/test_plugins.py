"""Functions of other packages: those of docs/plugins.md as they stand there, and what goes wrong with others."""

import asyncio
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
from builders import ENCODER, examples_of, rows_of, run_config, user
from markdown_blocks import blocks_of

from hydra_ray import plugins
from hydra_ray.adapt.choosing import choose
from hydra_ray.commands.update import update_config
from hydra_ray.config import GeneratorConfig, PlacementConfig, RunConfig, Task
from hydra_ray.config.yaml_documents import parse_document
from hydra_ray.errors import ConfigError, GenerationError, InputError
from hydra_ray.evaluate.metrics import metrics_of, metrics_of_sums, query_sums, score_answer
from hydra_ray.evaluate.report_page import render_page
from hydra_ray.evaluate.text_report import report_text
from hydra_ray.generate.engines.fake import complete, fake_tokenizer
from hydra_ray.generate.engines.opening import open_engine
from hydra_ray.generate.prompts import fit_messages
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS, task_of
from hydra_ray.plugins import load_plugin, source_digest
from hydra_ray.rows import CandidateScore, Completion, Message, Prompt, Request, ScoredGroup
from hydra_ray.serving.export import export_run
from hydra_ray.serving.export_folder import read_export
from hydra_ray.stages.plan import Plan, plan_run
from hydra_ray.stages.run import personalize

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
SECTIONS = {
    title: {block.language: block.text for block in blocks_of(text)}
    for title, text in re.findall(r"^## (An? .+)\n((?:(?!^## ).*\n)*)", PAGE, flags=re.MULTILINE)
}
RECIPES = {title: parse_document(blocks["yaml"]) for title, blocks in SECTIONS.items()}
CLASSES, RATING, TITLE = TASKS["planted"], TASKS["LaMP_3"], TASKS["LaMP_4"]

Module = Callable[[str, str], None]


def as_in_a_new_process() -> None:
    """Forget which functions were imported, with what source."""
    for name in {plugin.partition(":")[0] for plugin in plugins._imported}:
        sys.modules.pop(name, None)
    plugins._imported.clear()
    load_plugin.cache_clear()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Writes a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    as_in_a_new_process()


def recipe_modules() -> dict[str, str]:
    """The source of each recipe's module, by the name that its YAML block has."""
    return {re.findall(r"(my_\w+):", SECTIONS[title]["yaml"])[0]: SECTIONS[title]["python"] for title in SECTIONS}


def merged(*sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for each in sections:
        for name, settings in each.items():
            found[name] = {**found.get(name, {}), **settings}
    return found


def tickets(path: Path, num_users: int = 10) -> str:
    """Users of the page's task: everybody has a favourite team, for most of the tickets."""
    rng, teams = random.Random(0), ("hardware", "software", "billing")

    def ticket(own: str) -> tuple[str, str]:
        team = own if rng.random() < 0.7 else rng.choice(teams)
        return f"the {rng.choice(['lens', 'app', 'bill'])} of {rng.randrange(99)} {rng.choice(['?', '.'])}", team

    rows = []
    for number in range(num_users):
        records = [ticket(teams[number % 3]) for _ in range(7)]
        history = [{"input": text, "output": team} for text, team in records[1:]]
        queries = [{"id": "q", "input": records[0][0], "target": records[0][1]}]
        rows.append({"user_id": f"u{number}", "is_new": number % 2 == 0, "history": history, "queries": queries})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the page's modules, importable."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in recipe_modules().items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        in_process.install(patch)
        yield folder
        as_in_a_new_process()


@pytest.fixture(scope="module")
def finished(recipes: Path) -> Plan:
    base = {"base": {"encoder": ENCODER, "max_text_tokens": 24, "num_epochs": 0}}
    given = {"lamp": {"users_files": [tickets(recipes / "tickets.jsonl")], "planted": None}}
    sections = merged(given, {"reranker": base, "adapter": base}, *RECIPES.values())
    return personalize(run_config(str(recipes / "root"), **sections))


@pytest.fixture(scope="module")
def metrics(finished: Plan) -> dict[str, Any]:
    return json.loads(Path(finished.run_folder, "metrics.json").read_text())


def test_every_kind_of_the_table_has_one():
    table = PAGE.partition("| what |")[2].partition("\n\n")[0]
    settings = re.findall(r"`(\w+\.\w+)`", table)
    named = {f"{section}.{key}" for each in RECIPES.values() for section, own in each.items() for key in own}
    assert named == {each for each in settings if "." in each}
    assert len(SECTIONS) == 6


def test_a_run_goes_through_with_all_of_them(finished: Plan, metrics: dict[str, Any]):
    assert finished.is_complete()
    sections = merged(*RECIPES.values(), {"lamp": {"planted": {}}})
    named = [name for _, name in run_config("/nowhere", **sections).plugins]
    assert [each["name"] for each in metrics["plugins"]] == named
    assert len(named) == 7
    assert metrics["task"]["name"] == "tickets"


def test_the_report_is_led_by_the_metric_and_names_all(metrics: dict[str, Any]):
    assert [each["title"] for each in metrics["metrics"]] == ["near_team", "accuracy", "macro-F1"]
    assert metrics["quality_title"] == "near_team"
    names = {each["name"] for each in metrics["features"]}
    assert {"my_features:asks", "my_features:recency"} <= names
    for text in (report_text(metrics), render_page(metrics)):
        for each in metrics["plugins"]:
            assert each["name"] in text


def test_what_is_half_right_counts_by_half(metrics: dict[str, Any]):
    for system in metrics["systems"].values():
        figures = system["metrics"]
        assert figures["my_metric:near_team"]["value"] >= figures["accuracy"]["value"]
        assert system["quality"] == figures["my_metric:near_team"]


def test_the_engine_answered_everything(metrics: dict[str, Any]):
    assert metrics["totals"]["asked_now"] > 0
    # Without records each label is mentioned once, in the instruction.
    assert {each["answers"]["zero_shot"]["value"] for each in metrics["examples"]} == {"hardware"}
    assert "my_engine:open_engine" in report_text(metrics)


def test_an_update_and_an_export_call_them_and_refuse_another_source(
    finished: Plan, recipes: Path, monkeypatch: pytest.MonkeyPatch
):
    from hydra_ray.serving.scorer import load_scorer

    more = update_config(finished.run_folder, [tickets(recipes / "more.jsonl", 3)])
    assert more.lamp.task == finished.config.lamp.task
    plan_run(more)
    exported = export_run(finished, str(recipes / "export"))
    scores = load_scorer(exported.folder).score("u0", "the lens of 5 ?", ["hardware", "billing"])
    assert set(scores.by_answer) == {"hardware", "software", "billing"}
    (recipes / "my_task.py").unlink()
    changed = SECTIONS["A feature"]["python"] + "\n# changed\n"
    (recipes / "my_features.py").write_text(changed)
    as_in_a_new_process()
    with pytest.raises(ConfigError, match=r"stage .*examples differs .* in plugins"):
        plan_run(more)
    with pytest.raises(InputError, match=r"another source of my_features:recency \(reranker.plain_features\)"):
        read_export(exported.folder)
    (recipes / "my_features.py").unlink()
    as_in_a_new_process()
    with pytest.raises(ConfigError, match="no module my_features here"):
        read_export(exported.folder)


CHANGED = {
    "lamp.metric": ("answer, target", "probes"),
    "generator.prompt_form": ("task, contents", "probes"),
    "generator.engine": ("config, placement, task", "profiles"),
    "reranker.plain_features": ("query, records", "reranker.examples"),
    "adapter.plain_features": ("context, candidates", "adapter.examples"),
    "retrieve.method": ("user, searches, retrieve, encode", "probes"),
}
"""Arguments of a function, by its setting, and the first stage that a change of its source renames."""
UNCHANGED = {
    "lamp.metric": {"users", "profiles", "adapter.labeller"},
    "generator.engine": {"users", "adapter.labeller", "adapter.own", "adapter.codes"},
    "adapter.plain_features": {"users", "profiles", "probes", "reranker.heads", "drafts", "adapter.labeller"},
}
"""Stages that keep their names all the same; of other settings `NO_LATER`."""
NO_LATER = {"users", "profiles", "adapter.labeller", "adapter.own", "adapter.codes"}


@pytest.mark.parametrize("setting", CHANGED)
def test_a_changed_source_renames_the_stages_that_it_changes_and_no_others(
    setting: str, tmp_path: Path, module: Module
):
    arguments, first = CHANGED[setting]
    text = f"def f({arguments}):\n    return None\n"
    module("changing", text)
    config = with_setting(run_config(str(tmp_path / "root")), setting, "changing:f")
    before = fingerprints(config)
    assert fingerprints(config) == before
    module("changing", f"{text}# changed\n")
    with pytest.raises(ConfigError, match=f"{setting} is changing:f, whose source has changed since"):
        plan_run(config)
    as_in_a_new_process()
    after = fingerprints(config)
    changed = [name for name in before if before[name] != after[name]]
    assert changed[0] == first
    kept = UNCHANGED.get(setting, NO_LATER)
    assert kept.isdisjoint(changed)
    asked_anew = plan_run(config).completions.name
    module("changing", text)
    as_in_a_new_process()
    assert (asked_anew == plan_run(config).completions.name) == (setting != "generator.engine")


def with_setting(config: RunConfig, setting: str, name: str) -> RunConfig:
    given, (section, key) = config.model_dump(mode="json"), setting.split(".")
    given[section][key] = [name] if key == "plain_features" else name
    return RunConfig.model_validate(given)


def fingerprints(config: RunConfig) -> dict[str, str]:
    return {stage.name: stage.fingerprint for stage in plan_run(config).stages()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_at_all:f", "no module no_such_module_at_all here"),
        ("raising_module:f", "cannot be imported: .*division"),
        ("raising_module.below:f", "cannot be imported"),
        ("plain_module:f", "has no function f"),
        ("plain_module:value", "has no function value"),
    ],
)
@pytest.mark.parametrize("section", ["lamp.metric", "generator.engine", "adapter.plain_features", "lamp.task"])
def test_what_is_not_there_is_told_before_anything_is_asked(
    section: str, name: str, said: str, tmp_path: Path, module: Module
):
    module("raising_module", "1 / 0")
    module("plain_module", "value = 1")
    with pytest.raises(ConfigError, match=f"{section} is {name}, and .*{said}"):
        plan_run(with_setting(run_config(str(tmp_path)), section, name))


def test_every_file_of_a_package_counts_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "some_package"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/code.py"):
        (folder / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_digest("some_package.inner.code:rank", "x")
    (folder / "note.txt").write_text("no source")
    assert source_digest("some_package:rank", "x") == before
    (folder / "inner" / "code.py").write_text("a = 1")
    assert source_digest("some_package.inner.code:rank", "x") != before


def test_of_an_error_the_kind_and_the_line_are_told_and_no_text_of_a_user(module: Module):
    module("failing", "def f(answer, target):\n    return float(answer)\n")
    with pytest.raises(ConfigError) as told:
        quality(TITLE.judged_by("failing:f"), "secret words", "x")
    assert str(told.value) == "lamp.metric is failing:f, which failed with ValueError at line 2 of failing.py"
    assert told.value.__cause__ is None


class TestMetric:
    @pytest.mark.parametrize("value", ["1.5", "-0.1", "float('nan')", "'1'", "None", "[1.0]"])
    def test_what_is_no_number_from_0_to_1_is_refused(self, value: str, module: Module):
        name = f"bad_metric_{abs(hash(value))}"
        module(name, f"def f(answer, target):\n    return {value}\n")
        with pytest.raises(
            ConfigError, match=rf"lamp.metric is {name}:f, which returned .*; expected a number from 0 to 1"
        ):
            quality(CLASSES.judged_by(f"{name}:f"), "comedy", "music")

    def test_numbers_of_numpy_and_truth_values_are_numbers(self, module: Module):
        module("kinds", "import numpy as np\n\ndef f(answer, target):\n    return {'a': np.float32(0.5), 'b': True, "
               "'c': np.bool_(True)}[answer]\n")  # fmt: skip
        task = TITLE.judged_by("kinds:f")
        assert [quality(task, each, "x") for each in "abc"] == [0.5, 1.0, 1.0]

    @pytest.mark.parametrize("task", [CLASSES, RATING, TITLE], ids=lambda task: task.kind)
    def test_it_leads_and_the_metrics_of_the_kind_are_what_they_were(self, task: Task, module: Module):
        module("share", "def f(answer, target):\n    return 0.25 if answer == target else 0.125\n")
        judged = task.judged_by("share:f")
        answers = ["1", "5", None] if task is RATING else ["comedy", "music", None]
        targets = ["1", "2", "3"] if task is RATING else ["comedy", "comedy", "music"]
        assert metrics_of(judged)[1:] == metrics_of(task)

        def figures(task: Task) -> dict[str, float]:
            rows = [score_answer(task, value, target) for value, target in zip(answers, targets, strict=True)]
            return {
                name: float(value)
                for name, value in metrics_of_sums(task, query_sums(task, np.array(rows)).sum(axis=0)).items()
            }

        assert figures(judged) == {"share:f": pytest.approx((0.25 + 0.125 + 0) / 3), **figures(task)}

    def test_a_label_is_chosen_by_its_expected_quality(self, module: Module):
        """Two labels that are half right for each other are together worth more than the likeliest one."""
        module("halves", "def f(answer, target):\n    return 1.0 if answer == target else 0.5 * "
               "({answer, target} == {'romance', 'fantasy'})\n")  # fmt: skip
        chances = {"comedy": 0.4, "romance": 0.35, "fantasy": 0.25}
        scores = {label: float(np.log(chance)) for label, chance in chances.items()}
        group = ScoredGroup(
            group_id="g", query_id="q", variant="personal", is_pseudo=False,
            candidates=tuple(CandidateScore(candidate_id=label, personal=own, shared=own, shuffled=own, routed=own)
                             for label, own in scores.items()),
        )  # fmt: skip
        assert choose(group, "personal", CLASSES) == "comedy"
        assert choose(group, "personal", CLASSES.judged_by("halves:f")) == "romance"

    def test_preferences_have_no_other(self, tmp_path: Path):
        lamp = {"task": {"name": "p", "kind": "preference", "instruction": "?"}, "planted": None}
        config = run_config(
            str(tmp_path),
            lamp={**lamp, "users_files": ["x"], "metric": "a:f"},
            generator={"engine": "none", "model": ""},
        )
        with pytest.raises(ConfigError, match="judged by equality"):
            task_of(config.lamp)


def written(request: Request) -> list[str]:
    """Answers of a generator: labels where there are any."""
    texts = request.choices or ("a comedy of errors", "love", "the long way home")
    return [texts[place % len(texts)] for place in range(request.num_samples)]


class TestFeatures:
    @pytest.mark.parametrize("task", [CLASSES, TITLE], ids=lambda task: task.kind)
    def test_each_candidate_has_its_number_under_the_functions_name(self, task: Task, module: Module):
        module("lengths", "def f(context, candidates):\n    return [len(each) for each in candidates]\n")
        config = run_config(adapter={"plain_features": ["lengths:f"], "base": {"encoder": "x"}})
        from hydra_ray.adapt.adapter_examples import handcrafted_names

        names = handcrafted_names(task, config)
        place = names.index("lengths:f")
        plain = handcrafted_names(task, run_config())
        assert [name for name in names if name != "lengths:f"] == [*plain]
        someone = user()
        (own,) = examples_of(rows_of(someone, written, task, config), task=task, config=config)
        (without,) = examples_of(rows_of(someone, written, task), task=task)
        for group, other in zip(own.groups, without.groups, strict=True):
            values = np.array([candidate.plain for candidate in group.candidates])
            others = np.array([candidate.plain for candidate in other.candidates])
            np.testing.assert_allclose(np.delete(values, place, axis=1), others)
            lengths = np.array([len(candidate.candidate_id) for candidate in group.candidates], float)
            expected = lengths if task.is_closed else (lengths - lengths.mean()) / (lengths.std() or 1)
            np.testing.assert_allclose(values[:, place], expected, atol=1e-9)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("[]", r"of the shape \(0,\); expected 12 finite numbers, one for each candidate"),
            ("[[1.0]] * len(candidates)", r"of the shape \(12, 1\)"),
            ("[float('inf')] * len(candidates)", "not finite"),
            ("['no'] * len(candidates)", "list, no sequence of numbers"),
            ("None", r"of the shape \(\)"),
        ],
    )
    def test_what_is_no_number_of_each_candidate_is_refused(self, body: str, said: str, module: Module):
        name = f"bad_feature_{len(body)}"
        module(name, f"def f(context, candidates):\n    return {body}\n")
        config = run_config(adapter={"plain_features": [f"{name}:f"], "base": {"encoder": "x"}})
        with pytest.raises(ConfigError, match=f"adapter.plain_features has {name}:f, which returned .*{said}"):
            examples_of(rows_of(user(), written, config=config), config=config)

    @pytest.mark.parametrize(
        ("adapter", "generator", "said"),
        [
            ({"has_plain_features": False}, {}, "must leave them on"),
            ({"plain_features": ["a:f", "a:f"]}, {}, "a function twice"),
            ({}, {"engine": "none", "model": ""}, "has neither"),
        ],
    )
    def test_settings_without_effect_are_refused(self, adapter: dict, generator: dict, said: str):
        own = {"base": {"encoder": "x"}, "plain_features": ["a:f"], **adapter}
        with pytest.raises(ValueError, match=said):
            run_config(adapter=own, generator=generator)


class TestPromptForm:
    def messages(self, name: str) -> tuple[Message, ...]:
        config = GeneratorConfig(engine="fake", model="m", prompt_form=name)
        return fit_messages(CLASSES, user().history, "which story?", fake_tokenizer(), config)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("None", "and it returned NoneType"),
            ("['text']", "and it returned a list with str"),
            ("[]", "turns of nobody"),
            ("[Message(role='user', content=contents.query)] * 2", "turns of user, user"),
            ("[Message(role='assistant', content=contents.query)]", "turns of assistant"),
            ("[Message(role='user', content='always the same')]", "have no query in them"),
        ],
    )
    def test_what_is_no_prompt_is_refused(self, body: str, said: str, module: Module):
        name = f"bad_form_{len(body)}"
        module(name, f"from hydra_ray.rows import Message\n\ndef f(task, contents):\n    return {body}\n")
        with pytest.raises(ConfigError, match=f"generator.prompt_form is {name}:f.*{said}"):
            self.messages(f"{name}:f")

    def test_the_pages_form_shows_records_and_query(self, module: Module):
        module("my_form", recipe_modules()["my_form"])
        (message,) = self.messages("my_form:as_list")
        shown = [f"- {record.input} => {record.output}" for record in reversed(user().history)]
        assert message.content.split("\n") == [CLASSES.instruction, *shown, "which story?"]


class TestTask:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("'planted'", "which returned str; expected a hydra_ray.config.Task"),
            ("{'name': 'x', 'kind': 'text'}", "(?s)what some_task_.*:f returned for lamp.task is not .*instruction"),
        ],
    )
    def test_what_is_no_description_is_refused(self, body: str, said: str, module: Module):
        name = f"some_task_{len(body)}"
        module(name, f"def f():\n    return {body}\n")
        with pytest.raises(ConfigError, match=said):
            task_of(run_config(lamp={"task": f"{name}:f", "planted": {}}).lamp)

    def test_a_mapping_of_its_settings_will_do(self, module: Module):
        module("as_mapping", f"def f():\n    return {TITLE.model_dump(exclude_defaults=True)!r}\n")
        assert task_of(run_config(lamp={"task": "as_mapping:f", "planted": {}}).lamp) == TITLE


class TestEngine:
    REQUEST = Request(
        request_id="r", user_id="u", messages=(Message(role="user", content="x"),), num_samples=2, temperature=1.0,
        max_tokens=3, choices=(), num_top_tokens=0, seed=0,
    )  # fmt: skip

    def answered(self, name: str, kept: list[Completion]) -> list[Completion]:
        config = GeneratorConfig(engine=f"{name}:f", model="m")
        engine = open_engine(config, PlacementConfig(), None)
        return asyncio.run(engine.answer([Prompt(request=self.REQUEST)], kept.extend))

    def engine(self, module: Module, name: str, answer: str) -> None:
        module(
            name,
            "from dataclasses import replace\nfrom hydra_ray.errors import GenerationError\n"
            "from hydra_ray.generate.engines.fake import complete\n\n"
            "class E:\n    max_parts = 1\n    async def answer(self, prompts, keep):\n"
            f"        done = [complete(each.request) for each in prompts]\n        {answer}\n"
            "    def close(self):\n        pass\n\ndef f(config, placement, task):\n    return E()\n",
        )

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ("return None", "returned NoneType; expected a list of"),
            ("return []", "returned 0 completions; expected one for each of 1 requests"),
            ("return done * 2", "returned 2 completions"),
            ("return ['text']", "returned a list with str"),
            ("return [replace(done[0], request_id='other')]", "a completion of another request"),
            ("keep([replace(done[0], user_id='other')])", "a completion of another request"),
            ("keep([replace(done[0], generations=())])", "returned 0 generations without an error; expected 2"),
            ("return [replace(done[0], error='no')]", "returned 2 generations with an error; expected 0"),
            ("return [1 / 0]", r"failed with ZeroDivisionError at line 9 of"),
        ],
    )
    def test_what_is_no_answer_is_neither_kept_nor_returned(self, answer: str, said: str, module: Module):
        name = f"bad_engine_{abs(hash(answer))}"
        self.engine(module, name, answer)
        kept: list[Completion] = []
        with pytest.raises(ConfigError, match=f"generator.engine is {name}:f, which .*{said}"):
            self.answered(name, kept)
        assert kept == []

    def test_answers_and_our_own_errors_pass(self, module: Module):
        self.engine(module, "good_engine", "keep(done)\n        return done")
        kept: list[Completion] = []
        assert self.answered("good_engine", kept) == kept == [complete(self.REQUEST)]
        self.engine(module, "broken_engine", "raise GenerationError('broken')")
        with pytest.raises(GenerationError, match=r"^broken$"):
            self.answered("broken_engine", [])

    @pytest.mark.parametrize(
        ("returned", "said"),
        [("None", "max_parts is None"), ("type('E', (), {'max_parts': 1})()", "the functions answer and close")],
    )
    def test_what_is_no_engine_is_refused(self, returned: str, said: str, module: Module):
        module(f"no_engine_{len(returned)}", f"def f(config, placement, task):\n    return {returned}\n")
        config = GeneratorConfig(engine=f"no_engine_{len(returned)}:f", model="m")
        with pytest.raises(ConfigError, match=said):
            open_engine(config, PlacementConfig(), None)
