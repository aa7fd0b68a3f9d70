"""README and the pages of docs: their Python and their commands are run as they stand there, on one small run.

Locations alone are exchanged. What cannot be run in this process within seconds is listed with the reason.
"""

import json
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import in_process
import pytest
import yaml
from builders import ENCODER, run_config
from markdown_blocks import blocks_of

from hydra_ray.cli import main
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize

pytestmark = pytest.mark.filterwarnings("default")  # what imports Ray uses what others have deprecated
ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
ELSEWHERE = {
    "docs/plugins.md": "its blocks are modules: tests/test_plugins.py makes a run with them",
}
"""Pages whose Python is run by other tests."""
SERVED = ("make_service(",)
"""What is in blocks that are services, which tests/serving/test_service.py asks."""
TOUR = TEXTS["docs/start.md"].partition("## A tour of the commands\n")[2].partition("\n## ")[0]

NOT_RUN = {
    r"make (demo|test|install.*)|HYDRA_LAMP_DIR=\S+ make quality": "minutes, or the network",
    r"pip .*|python3.11 -m venv .*|DS_BUILD_OPS=0 pip .*|source .*": "installs; tests/install does so",
    r"hydra-ray demo": "vLLM and some minutes; the same as make demo",
    r"(mkdir|for|curl|done|https:|--output).*": "downloads LaMP",
    r"hf download .*|aws s3 .*|--exclude .*": "the network",
    r"(ray|export|\(umask|kubectl|helm) .*": "a cluster",
    r"hydra-ray submit .*|hydra-ray doctor --cluster .*": "a cluster; tests/commands/submit, tests/cluster",
    r"hydra-ray (run|doctor|plan|report|status) (jobs/configs/gpu.yaml|outputs/runs/gpu)\b.*": "a GPU",
    r"hydra-ray run (lamp2n|records) .*": "a folder of LaMP and vLLM",
    r"hydra-ray plan jobs/configs/demo.yaml": "vLLM, whose speed it measures; the tour plans without",
    r"hydra-ray (plan|run) tickets.yaml.*|hydra-ray doctor tickets.yaml": "an endpoint with its tokenizer",
    r"hydra-ray sweep jobs/configs/sweep.yaml +#.*": "vLLM; tests/sweep",
    r"hydra-ray stop outputs/runs/api --cancel": "a run whose batches are under way; tests/generate/batches",
    r"hydra-ray run judgements.yaml": "minutes; tests/stages/test_preference_run.py runs these users",
}
"""Commands that are not run here, by a pattern of the whole line, and the reason."""


def tickets(folder: Path) -> Path:
    """Users of the pages: what each filed, and one query with its right answer."""
    rng, teams = random.Random(0), ("hardware", "software", "billing")

    def ticket(own: str) -> dict[str, Any]:
        return {"input": f"The {rng.choice(['lens', 'app', 'bill'])} no {rng.randrange(99)}.", "output": own}

    names = ["ann", "bob", "eve", *(f"user {number}" for number in range(9))]
    rows = [
        {
            "user_id": name,
            "is_new": place % 2 == 0 or name == "bob",
            "history": [
                {"id": f"r{number}", **ticket(rng.choice([teams[place % 3], rng.choice(teams)]))}
                for number in range(1, 8)
            ],
            "queries": [{"id": "q1", "input": "The app logs me out.", "target": teams[place % 3]}],
        }
        for place, name in enumerate(names)
    ]
    file = folder / "tickets.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with (folder / "tickets.csv").open("w") as events:
        events.write("user_id,input,output\n")
        for row in rows:
            for record in row["history"]:
                events.write(f"{row['user_id']},{record['input']},{record['output']}\n")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """A finished run, with this process in the place of Ray as long as the module's tests run."""
    folder = tmp_path_factory.mktemp("pages")
    task = {
        "name": "tickets",
        "kind": "classification",
        "instruction": "Which team takes this ticket? Answer with hardware, software or billing only.",
        "labels": ["hardware", "software", "billing"],
    }
    base = {"base": {"encoder": ENCODER, "max_text_tokens": 24, "num_epochs": 0}}
    lamp = {"task": task, "users_files": [str(tickets(folder))], "planted": None}
    config = run_config(str(folder / "hydra"), lamp=lamp, reranker=base, adapter=base)
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        yield personalize(config.model_copy(update={"run": "tickets"}))


@pytest.fixture
def place(finished: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with a copy of the run's root, and the files that the pages speak of."""
    given = Path(finished.config.storage.root)
    shutil.copytree(given, tmp_path / "hydra")
    for name in ("tickets.jsonl", "tickets.csv"):
        shutil.copy(given.parent / name, tmp_path)
    settings = finished.config.model_dump(mode="json") | {"storage": {"root": str(tmp_path / "hydra")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    daily = next(block.text for block in blocks_of(TEXTS["docs/daily.md"]) if block.language == "json")
    (tmp_path / "monday.jsonl").write_text(daily)
    (tmp_path / "asked.csv").write_text("user_id,query_id,input\nann,q2,A wedding by the sea.\n")
    (tmp_path / "said.csv").write_text("user_id,query_id,chosen,thumb\nann,q1,,up\nbob,q1,billing,\n")
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def moved(text: str, place: Path) -> str:
    """A text with the locations of this machine in the place of those that it shows."""
    run = str(place / "hydra" / "runs" / "tickets")
    for shown in ("/data/hydra/runs/tickets", "/data/hydra/runs/demo", "outputs/runs/demo"):
        text = text.replace(shown, run)
    text = text.replace("jobs/configs/demo.yaml", str(place / "run.yaml"))
    return text.replace("/data/hydra-export", str(place / "export")).replace("/data/hydra", str(place / "hydra"))


def python_blocks() -> list[Any]:
    return [
        pytest.param(page, block.text, id=f"{page} {number}")
        for page, text in TEXTS.items()
        for number, block in enumerate(blocks_of(text))
        if block.language == "python" and page not in ELSEWHERE and not any(each in block.text for each in SERVED)
    ]


@pytest.mark.parametrize(("page", "text"), python_blocks())
def test_python_runs(page: str, text: str, place: Path):
    if "hydra-export" in text:
        assert main(["export", str(place / "hydra" / "runs" / "tickets"), str(place / "export")]) == 0
    names: dict[str, Any] = {}
    exec(compile(moved(text, place), page, "exec"), names)
    if "scores" in names:
        assert set(names["scores"].by_answer) == {"hardware", "software", "billing"}
        assert names["records"]
    if "asked" in names:
        assert names["answers"]["user_id"].tolist() == ["ann"]


def command_lines(text: str) -> list[str]:
    """The lines of a page's blocks of commands, without what the tour's own test runs."""
    blocks = [block.text for block in blocks_of(text.replace(TOUR, "")) if block.language == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def reason_against(line: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.fullmatch(pattern, line)), None)


PAGES_WITH_COMMANDS = [page for page in PAGES if any(not reason_against(each) for each in command_lines(TEXTS[page]))]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_commands_run_in_the_order_of_their_page(page: str, place: Path, capsys: pytest.CaptureFixture[str]):
    for line in command_lines(TEXTS[page]):
        if reason_against(line) is None:
            program, *words = shlex.split(moved(line, place), comments=True)
            assert program == "hydra-ray", line
            assert main(words) == 0, f"{line}\n{capsys.readouterr()}"


def test_every_command_that_is_not_run_is_on_a_page():
    lines = [line for text in TEXTS.values() for line in command_lines(text)]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern
