"""What documents name is there: files, modules, make targets, commands. No tracked file has conflict markers."""

import posixpath
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydra_ray.cli import SUBMITTED, main

ROOT = Path(__file__).parents[1]
PACKAGE = "hydra_ray"
OURS = (".cff", ".ipynb", ".md", ".py", ".sh", ".toml")
"""Suffixes that a document uses of this repository's files alone; others may be of a run, a user or a model."""
SOURCES = (".ini", ".py", ".sh", ".toml", ".yaml", ".yml", ".cpu", ".cuda", "Makefile", ".ci/run")
ELSEWHERE = ("tensorboard/", "LaMP_2/new/")
"""Folders that runs write, or that others publish."""
STORAGE_ROOT = ("runs/", "sweeps/")
"""Folders below each storage root. `runs` is a package too, which has only Python files."""
CONFLICT = re.compile(rb"^(?:(?:<{7}|>{7}|\|{7}) .*|={7}\r?)$", re.MULTILINE)


def tracked_files() -> list[str]:
    """Return the files of this repository, with new ones that are not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).exists()]


TRACKED = tracked_files()
FILES = frozenset(name for name in TRACKED if (ROOT / name).is_file())
FOLDERS = frozenset(str(parent) for name in TRACKED for parent in Path(name).parents) | (frozenset(TRACKED) - FILES)
AT_TOP = frozenset(name for name in FOLDERS if "/" not in name)
PACKAGES = frozenset(re.findall(rf"^{PACKAGE}/(\w+)/.*\.py$", "\n".join(FILES), flags=re.MULTILINE))
DOCUMENTS = sorted(name for name in FILES if name.endswith(".md") and name != "CHANGELOG.md")
TARGETS = frozenset(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> frozenset[str]:
    """Commands of `hydra-ray`, as its help lists them."""
    with pytest.raises(SystemExit):
        main(["--help"])
    return frozenset(re.findall(r"^    ([a-z-]+)(?:\s|$)", capsys.readouterr().out, flags=re.MULTILINE))


def divided(text: str) -> tuple[str, list[str]]:
    """Return the prose of a Markdown text, and the lines of its fenced and indented code."""
    prose: list[str] = []
    code: list[str] = []
    is_fenced, before = False, ""
    for line in text.splitlines():
        is_fence = line.lstrip().startswith("```")
        is_indented = line.startswith("    ") and (not before or before.startswith("    "))
        (code if is_fenced or is_indented else prose).append("" if is_fence else line)
        is_fenced, before = is_fenced != is_fence, line
    return "\n".join(prose), code


def is_path(word: str) -> bool:
    """Whether a word in backticks claims to be a file or folder of this repository."""
    first = word.partition("/")[0]
    if not re.fullmatch(r"[\w.-][\w.*-]*(/[\w.*-]+)*/?", word) or word in ELSEWHERE:
        return False
    if word.endswith(OURS) or (first in AT_TOP and "/" in word):
        return True
    return (first in PACKAGES or word.endswith("/")) and "/" in word and not word.startswith(STORAGE_ROOT)


def has_path(word: str, document: str) -> bool:
    """Whether a path is there: below the repository, the package, or the document's folder."""
    places = FOLDERS if word.endswith("/") else FOLDERS | FILES
    for base in ("", PACKAGE, posixpath.dirname(document)):
        pattern = re.escape(posixpath.normpath(posixpath.join(base, word))).replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, place) for place in places):
            return True
    return False


def has_module(name: str) -> bool:
    """Whether a dotted name is a module, or one that is written in a module."""
    place = name.replace(".", "/")
    if place in FOLDERS or f"{place}.py" in FILES:
        return True
    owner, _, written = place.rpartition("/")
    files = FILES & {f"{owner}.py", f"{owner}/__init__.py"}
    return any(re.search(rf"\b{written}\b", (ROOT / each).read_text(encoding="utf-8")) for each in files)


def missing_commands(line: str, commands: frozenset[str]) -> Iterator[str]:
    """Yield the make targets and the commands of `hydra-ray` in a command line that are not there."""
    for command in re.split(r"&&|\|", line.partition(" #")[0]):
        program, *words = re.sub(r"^\s*(?:(?:\w+=\S*|time)\s+)*", "", command).split() or [""]
        if program == "make":
            yield from (word for word in words if re.fullmatch(r"[a-z][\w-]*", word) and word not in TARGETS)
        if posixpath.basename(program) == "hydra-ray":
            yield from (word for word in words[:1] if re.fullmatch(r"[a-z][\w-]*", word) and word not in commands)
    yield from (word for word in re.findall(r"--command ([a-z-]+)", line) if word not in SUBMITTED)


def missing(text: str, document: str, commands: frozenset[str]) -> list[str]:
    """Return all that a document names and that is not there, in the order of kinds."""
    prose, code = divided(text)
    named = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose) if ":" not in link]
    # A name in angle brackets stands for any.
    spoken = [re.sub(r"<[\w-]+>|\.\.\.", "*", word.strip(",;:")) for span in named for word in span.split()]
    typed = [word.replace("...", "*") for line in code for word in line.split() if word.partition("/")[0] in AT_TOP]
    paths = [*(word for word in spoken if is_path(word)), *(word for word in typed if is_path(word)), *links]
    modules = [word for word in spoken if re.fullmatch(rf"{PACKAGE}(\.\w+)+", word)]
    return [
        *(path for path in paths if not has_path(path, document)),
        *(module for module in modules if not is_path(module) and not has_module(module)),
        *(word for line in (*named, *code) for word in missing_commands(line, commands)),
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_all_that_a_document_names_is_there(document: str, commands: frozenset[str]):
    assert missing((ROOT / document).read_text(encoding="utf-8"), document, commands) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`hydra_ray/api.py`, `api.py`, `scorer/heads/`, `stages/*.py`, `stages/<name>.py`, `tests/builders.py`", []),
        ("`hydra_ray.api`, `hydra_ray.cli.main`, `hydra_ray.stages`, `hydra_ray.stages.STAGE_NAMES`", []),
        ("`runs/june`, `runs/<run>/config.json`, `metrics.json`, `bucket/models`, `org/name`, `s3://bucket/x/`", []),
        ("`time make demo`, `HYDRA=1 make\ninstall LOCK=gpu`, `apt install make g++`, `hydra-ray --version`", []),
        ("    hydra-ray run jobs/configs/tour.yaml   # make coffee\n    ray job submit -- python jobs/...\n", []),
        ("[page](docs/models.md), [elsewhere](https://example.org/docs/none.md)", []),
        ("`hydra_ray/pipeline.py` and `pipeline.py:`", ["hydra_ray/pipeline.py", "pipeline.py"]),
        ("`scorer/training.py`, `runs/none.py`", ["scorer/training.py", "runs/none.py"]),
        ("`tests/none/`, `serving/none/`, `none/`", ["tests/none/", "serving/none/", "none/"]),
        ("`jobs/configs/none.yaml`, `fuzz/none/<name>/seed-*`", ["jobs/configs/none.yaml", "fuzz/none/*/seed-*"]),
        ("`hydra_ray.none`, `hydra_ray.cli.none_such`", ["hydra_ray.none", "hydra_ray.cli.none_such"]),
        ("`make none`, `make test none-such`", ["none", "none-such"]),
        ("`hydra-ray none x`, `hydra-ray submit my.yaml --command none`", ["none", "none"]),
        ("Text:\n\n    make none\n    cd x && .venv/bin/hydra-ray none\n", ["none", "none"]),
        ("```sh\npython jobs/none.py\n```\n`a.py`", ["a.py", "jobs/none.py"]),
        ("[page](docs/none.md#part)", ["docs/none.md"]),
    ],
)
def test_names_that_are_not_there_are_found(text: str, expected: list[str], commands: frozenset[str]):
    assert missing(text, "README.md", commands) == expected


def missing_in_source(text: str, file: str) -> list[str]:
    """Return the files and modules that the comments and docstrings of a file name and that are not there."""
    suffixes = "|".join(map(re.escape, OURS))
    below = rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, sorted(AT_TOP)))})/[\w/-]+(?:{suffixes})\b"
    paths = [*re.findall(below, text), *re.findall(r"`([\w/]+\.py)`", text)]
    modules = re.findall(rf"`({PACKAGE}(?:\.\w+)+)[`(]", text)
    return sorted(
        {*(each for each in paths if not has_path(each, file)), *(each for each in modules if not has_module(each))}
    )


def test_all_that_comments_and_docstrings_name_is_there():
    named = [name for name in sorted(FILES) if name.endswith(SOURCES) and name != f"tests/{Path(__file__).name}"]
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in named}
    assert {name: found for name, text in texts.items() if (found := missing_in_source(text, name))} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# hydra_ray/api.py, see `hydra_ray.api`, `prior.py`, x/hydra_ray/none.py", []),
        ("# hydra_ray/none.py; `none.py`", ["hydra_ray/none.py", "none.py"]),
        ("strict = ['hydra_ray/none.py', 'tests/none/test_none.py']", ["hydra_ray/none.py", "tests/none/test_none.py"]),
        ("see `hydra_ray.none` and `hydra_ray.api.none_such()`", ["hydra_ray.api.none_such", "hydra_ray.none"]),
    ],
)
def test_names_in_source_that_are_not_there_are_found(text: str, expected: list[str]):
    assert missing_in_source(text, "hydra_ray/scorer/linear/newton.py") == expected


def test_the_declaration_that_contributing_shows_is_the_stages():
    indented = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n       STAGES = (\n")[2]
    shown = textwrap.dedent("       STAGES = (\n" + indented.partition("\n\n")[0])
    assert shown in (ROOT / PACKAGE / "stages" / "gate.py").read_text(encoding="utf-8")


def tree() -> list[str]:
    """Return the paths of CONTRIBUTING's tree, of which a folder's entries are indented below it."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## The tree\n\n")[2]
    paths: list[str] = []
    folders: dict[int, str] = {}
    for line in section.partition("\n\n")[0].splitlines():
        depth, entry = len(line) - len(line.lstrip()), line.split()[0]
        folders = {at: folder for at, folder in folders.items() if at < depth}
        paths.append(posixpath.join(*folders.values(), entry))
        folders[depth] = entry
    return paths


def test_the_tree_of_contributing_is_the_tree_of_the_package():
    shown = [path.rstrip("/") for path in tree()]
    assert [path for path in shown if path not in FILES | FOLDERS] == []
    assert {f"{PACKAGE}/{name}" for name in PACKAGES} <= set(shown)
    modules = {name for name in FILES if re.fullmatch(rf"{PACKAGE}/[a-z]\w*\.py", name)}
    assert modules <= set(shown)


def test_no_tracked_file_has_conflict_markers():
    assert [name for name in sorted(FILES) if CONFLICT.search((ROOT / name).read_bytes())] == []


@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "||||||| 0f3a", "=======", "=======\r", ">>>>>>> branch"])
def test_each_marker_of_a_conflict_is_found(marker: str):
    assert CONFLICT.search(f"before\n{marker}\nafter\n".encode())
    assert not CONFLICT.search(f"before\n {marker}\nafter\n".encode())
