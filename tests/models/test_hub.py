"""Models of the Hugging Face hub, on nodes that are processes of their own with caches of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from model_files import write_model
from simulated_hub import Hub, Repository, simulated_hub

from hydra_ray.models import model_identity

pytestmark = pytest.mark.integration

NAME = "org/model"
_NODE = """
import json, logging, sys
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s %(message)s")
from hydra_ray import models
from hydra_ray.errors import ModelError
answers = []
for question, *arguments in json.loads(sys.argv[1]):
    try:
        answers.append(getattr(models, question)(*arguments))
    except ModelError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""


@dataclass(kw_only=True)
class Node:
    """A machine, of which only what it keeps on disk outlasts a process."""

    hub: Hub
    folder: Path
    is_offline: bool = False
    log: str = ""
    """Of its last process."""

    def ask(self, *questions: tuple[str, ...], **environment: str) -> list:
        """Answers of functions of `hydra_ray.models`, in a new process."""
        own = {
            "HF_HOME": f"{self.folder}/hf",
            "HYDRA_CACHE_DIR": f"{self.folder}/cache",
            "HF_ENDPOINT": self.hub.endpoint,
        }
        offline = {"HF_HUB_OFFLINE": str(int(self.is_offline))}
        done = subprocess.run(
            [sys.executable, "-c", _NODE, json.dumps(questions)],
            env={**os.environ, **own, **offline, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        self.log = done.stderr
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def error(self, spec: str, **environment: str) -> str:
        """What a node says that cannot have a model."""
        (answer,) = self.ask(("resolve_model", spec), **environment)
        return answer["error"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with simulated_hub() as made:
        made.repositories[NAME] = Repository()
        made.repositories[NAME].commit(uploaded(tmp_path))
        yield made


@pytest.fixture
def node(hub: Hub, tmp_path: Path) -> Node:
    return Node(hub=hub, folder=tmp_path / "node")


def uploaded(tmp_path: Path, seed: int = 0) -> Path:
    """What is in the repository: a model, and files that no loader reads."""
    folder = write_model(tmp_path / f"uploaded-{seed}", seed=seed, num_numbers=1 << 20, README__md="x" * 5000)
    write_model(folder / "onnx", seed=seed)
    return folder


def test_a_name_is_brought_once_and_loaded_from_its_snapshot_without_the_hub(node: Node, hub: Hub, tmp_path: Path):
    (folder,) = node.ask(("resolve_model", NAME))
    weights = (uploaded(tmp_path) / "model.safetensors").read_bytes()
    assert Path(folder, "model.safetensors").read_bytes() == weights
    assert sorted(each.name for each in Path(folder).iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert [line for line in node.log.splitlines() if line.startswith("hydra_ray")] == [
        f"hydra_ray.models.hub downloading {NAME}@{Path(folder).name} from the hub, 0.00 GB",
        next(line for line in node.log.splitlines() if "downloaded" in line),
    ]
    node.is_offline = True
    hub.requests.clear()
    assert node.ask(("resolve_model", NAME), ("resolve_model", f"{NAME}@{Path(folder).name}")) == [folder, folder]
    assert hub.requests == []


def test_a_pinned_name_that_is_here_asks_the_hub_nothing(node: Node, hub: Hub):
    (folder,) = node.ask(("resolve_model", NAME))
    hub.requests.clear()
    pinned = f"{NAME}@{Path(folder).name}"
    assert node.ask(("resolve_model", pinned), ("model_identity", pinned))[0] == folder
    assert hub.requests == []


def test_the_identity_is_the_folders_and_needs_no_weights(node: Node, hub: Hub, tmp_path: Path):
    identity, size = node.ask(("model_identity", NAME), ("weight_bytes", NAME))
    assert identity == model_identity(str(uploaded(tmp_path)))
    assert size == (uploaded(tmp_path) / "model.safetensors").stat().st_size
    assert hub.served_bytes < 5000
    folder, after = node.ask(("resolve_model", NAME), ("model_identity", NAME))
    assert after == identity == model_identity(folder)


def test_a_name_follows_its_branch_and_a_revision_stays(node: Node, hub: Hub, tmp_path: Path):
    first = hub.repositories[NAME].branches["main"]
    before, *_ = node.ask(("model_identity", NAME))
    second = hub.repositories[NAME].commit(uploaded(tmp_path, seed=1))
    specs = [NAME, f"{NAME}@{first}", f"{NAME}@{second}", f"{NAME}@main"]
    now, pinned, latest, branch = node.ask(*(("model_identity", spec) for spec in specs))
    assert pinned == before != now
    assert now == latest == branch


def test_a_download_that_breaks_off_goes_on_where_it_was(node: Node, hub: Hub, tmp_path: Path):
    large = write_model(tmp_path / "large", num_numbers=4 << 20)
    hub.repositories[NAME].commit(large)
    hub.cut_after_bytes = 12 << 20
    (folder,) = node.ask(("resolve_model", NAME))
    weights = (large / "model.safetensors").read_bytes()
    assert Path(folder, "model.safetensors").read_bytes() == weights
    assert hub.served_bytes < len(weights) + (3 << 20)  # what it had not written yet


def test_a_file_damaged_in_the_cache_is_removed_and_brought_again(node: Node, hub: Hub, tmp_path: Path):
    (folder,) = node.ask(("resolve_model", NAME))
    blob = Path(folder, "model.safetensors").resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "was damaged" in node.error(NAME)
    assert node.ask(("resolve_model", NAME)) == [folder]
    assert Path(folder, "model.safetensors").read_bytes() == content


def test_what_the_hub_refuses_is_said_with_what_to_do(node: Node, hub: Hub, tmp_path: Path):
    assert "is not a repository" in node.error("org/none")
    assert "is not a revision" in node.error(f"{NAME}@no-branch")
    hub.repositories[NAME].is_gated = True
    assert "HF_TOKEN" in node.error(NAME)
    assert node.ask(("resolve_model", NAME), HF_TOKEN="right")
    hub.repositories["org/data"] = Repository()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("a,b")
    hub.repositories["org/data"].commit(tmp_path / "data")
    assert "no config.json" in node.error("org/data")


def test_a_node_that_cannot_ask_and_has_no_copy_says_which_of_the_two(node: Node):
    assert "cannot be reached" in node.error(NAME, HF_ENDPOINT="http://127.0.0.1:9")
    node.is_offline = True
    assert "HF_HUB_OFFLINE keeps it from being fetched" in node.error(NAME)
    assert node.ask(("weight_bytes", NAME)) == [None]


def test_a_snapshot_without_weights_is_a_tokenizer_and_no_model(node: Node, hub: Hub):
    node.ask(("model_identity", NAME))  # brings the small files alone
    node.is_offline = True
    assert "incomplete" in node.error(NAME)
