"""README and the pages of docs: links lead somewhere, and what stands in blocks of code is right."""

import ast
import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from markdown_blocks import anchors_of, blocks_of, links_of

import hydra_ray
from hydra_ray.commands.arguments import make_parser
from hydra_ray.config import Task, apply_override, check_config
from hydra_ray.config.yaml_documents import parse_document
from hydra_ray.conversations import conversation_text
from hydra_ray.lamp.input_files import input_files
from hydra_ray.lamp.user_files import read_user_files
from hydra_ray.rows import Rejected
from hydra_ray.sweep.config import load_sweep

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
TASK = {
    "name": "tickets",
    "kind": "classification",
    "instruction": "Which team?",
    "labels": ["hardware", "software", "billing", "romance", "violence"],
}
TASKS = {"docs/preferences.md": {"name": "answers", "kind": "preference", "instruction": "Which?"}}
"""Task of a page's users, where it is another one."""
UPDATES = ("docs/daily.md", "docs/start.md")
"""Pages whose users may be there already."""


def code(language: str) -> list[Any]:
    """Each block of a language, with its page."""
    return [
        pytest.param(page, block.text, id=f"{page} {number}")
        for page, text in TEXTS.items()
        for number, block in enumerate(blocks_of(text))
        if block.language == language
    ]


def test_readme_fits_on_a_few_screens():
    assert len(TEXTS["README.md"].splitlines()) <= 150


def test_a_block_of_code_says_its_language():
    languages = {block.language for text in TEXTS.values() for block in blocks_of(text)}
    assert languages == {"json", "python", "sh", "text", "yaml"}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str):
    for link in links_of(TEXTS[page]):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) if target else page
        assert (ROOT / place).is_file(), link
        assert page == "README.md" or place.startswith("docs/"), f"{link} is not on the site"
        assert not anchor or anchor in anchors_of((ROOT / place).read_text(encoding="utf-8")), link


def test_every_page_is_in_the_navigation_of_the_site():
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w-]+\.md", site.partition("\nnav:")[2]))
    assert listed == {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}


def test_every_public_name_is_in_the_reference():
    shown = set(re.findall(r"^::: hydra_ray\.[\w.]*?(\w+)$", TEXTS["docs/api.md"], flags=re.MULTILINE))
    assert set(hydra_ray.__all__) <= shown


@pytest.mark.parametrize(("page", "text"), code("yaml"))
def test_yaml_is_a_configuration_or_sections_of_one(page: str, text: str, tmp_path: Path):
    settings: dict[str, Any] = parse_document(text) or {}
    if "sweep" in settings:
        base = (ROOT / "jobs" / "configs" / settings["base"]).read_text(encoding="utf-8")
        (tmp_path / settings["base"]).write_text(base, encoding="utf-8")
        (tmp_path / "sweep.yaml").write_text(text, encoding="utf-8")
        assert load_sweep(tmp_path / "sweep.yaml").config.sweep == settings["sweep"]
        return
    check_config(settings if "run" in settings else whole(settings), source=page)


def whole(sections: Mapping[str, Any]) -> dict[str, Any]:
    """A small configuration with these settings of these sections."""
    base: dict[str, Any] = {
        "run": "test",
        "storage": {"root": "/data"},
        "lamp": {"task": TASK},
        "generator": {"model": "/models/generator"},
        "reranker": {"base": {"encoder": "/models/encoder"}},
        "adapter": {"base": {"encoder": "/models/encoder"}},
    }
    merged = {**base, **{name: {**base.get(name, {}), **settings} for name, settings in sections.items()}}
    if not merged["lamp"].keys() & {"root", "users_files", "planted"}:
        merged["lamp"]["root"] = "/data/lamp"
    return merged


@pytest.mark.parametrize(("page", "text"), code("json"))
def test_json_is_what_users_hand_in(page: str, text: str, tmp_path: Path):
    documents = list(documents_of(text))
    assert documents
    if isinstance(documents[0], list):
        assert all(conversation_text(document) for document in documents)
        return
    task = Task.model_validate(TASKS.get(page, TASK))
    assert rejected(task, documents, tmp_path, is_update=page in UPDATES) == []


def documents_of(text: str) -> Iterator[Any]:
    """The documents that follow each other in a text."""
    decoder, place = json.JSONDecoder(), 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        document, place = decoder.raw_decode(text, place)
        yield document


def rejected(task: Task, rows: list[Any], folder: Path, *, is_update: bool) -> list[str]:
    """Reasons for which rows of users are rejected."""
    (folder / "users.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (folder / "events").mkdir()
    files = input_files([str(folder / "users.jsonl")])
    read = read_user_files(task, files, folder / "events", is_update=is_update)
    return [each.reason for each in read if isinstance(each, Rejected)]


@pytest.mark.parametrize(("page", "text"), code("python"))
def test_python_compiles_and_what_it_imports_of_us_is_there(page: str, text: str):
    for node in ast.walk(ast.parse(text, filename=page)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hydra_ray":
            module = import_module(node.module or "")
            assert all(hasattr(module, each.name) for each in node.names)


@pytest.mark.parametrize(("page", "text"), code("sh"))
def test_every_command_line_is_accepted_with_its_settings(page: str, text: str):
    for words in commands_of(text):
        arguments, rest = make_parser(None).parse_known_args(words)
        if arguments.command == "submit":
            inner = [arguments.submitted, arguments.target, *rest]
            arguments, rest = make_parser(None).parse_known_args(inner)
        assert [word for word in rest if word.startswith("-")] == [], page
        for override in [*getattr(arguments, "overrides", ()), *rest]:
            check_config(apply_override(whole({}), override), source=override)


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each line that runs `hydra-ray`, without its name."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|>&;")
        lexer.whitespace_split = True
        words = list(lexer)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        if words and posixpath.basename(words[0]) == "hydra-ray":
            end = next((place for place, word in enumerate(words) if set(word) <= set("|>&;")), len(words))
            yield words[1:end]
