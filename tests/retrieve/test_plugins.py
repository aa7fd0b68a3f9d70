"""Retrievers from elsewhere: that of docs/plugins.md as it stands there, and what goes wrong with others."""

from pathlib import Path

import numpy as np
import pytest
from builders import run_config, user
from markdown_blocks import blocks_of

from hydra_ray.config import ProbesConfig, RetrieveConfig, RunConfig
from hydra_ray.config.yaml_documents import parse_document
from hydra_ray.errors import ConfigError
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.plugins import source_digest
from hydra_ray.retrieve.ranking import RankedQuery, rank_queries
from hydra_ray.stages.plan import plan_run

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = {block.language: block.text for block in blocks_of(PAGE)}


def ranked(method: str) -> list[RankedQuery]:
    someone = user(6, input2="x" * len("a story of comedy and romance"))
    config = RetrieveConfig(method=method)
    return list(rank_queries(someone, TASKS["planted"], ProbesConfig(num_records=6), config))


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_the_retriever_of_the_page_ranks_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module(tmp_path, monkeypatch, "my_retriever", BLOCKS["python"])
    settings: dict[str, dict[str, str]] = parse_document(BLOCKS["yaml"])
    own = ranked(settings["retrieve"]["method"])[0]
    assert own.retrieved[0].record_id == "2"
    lengths = {record.record_id: len(record.input) for record in own.eligible}
    asked = len(own.query.input)
    assert [each.score for each in own.retrieved] == [-abs(lengths[each.record_id] - asked) for each in own.retrieved]


BAD = {
    "few": ("return []", "returned 0 arrays"),
    "short": ("return [[1.0]] * len(searches)", r"expected \d+ of the shape \(6,\)"),
    "nan": ("return [[float('nan')] * 6] * len(searches)", "none of them nan"),
    "words": ("return ['no'] * len(searches)", "no sequence of arrays of numbers"),
    "nothing": ("return None", "no sequence of arrays of numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_score_of_every_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    body, said = BAD[name]
    module(tmp_path, monkeypatch, f"bad_{name}", f"def rank(user, searches, retrieve, encode):\n    {body}\n")
    with pytest.raises(ConfigError, match=said):
        ranked(f"bad_{name}:rank")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("no_such_module_at_all:rank", "no module no_such_module_at_all here"),
        ("raising_module:rank", "cannot be imported: .*division"),
        ("raising_module.below:rank", "cannot be imported"),
        ("plain_module:rank", "has no function rank"),
        ("plain_module:value", "has no function value"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, said: str):
    module(tmp_path, monkeypatch, "raising_module", "1 / 0")
    module(tmp_path, monkeypatch, "plain_module", "value = 1")
    with pytest.raises(ConfigError, match=f"retrieve.method is {method}, and .*{said}"):
        ranked(method)


def config(root: Path, method: str) -> RunConfig:
    return run_config(str(root / "root"), retrieve={"method": method})


def test_a_changed_source_renames_what_it_computes_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = "def rank(user, searches, retrieve, encode):\n    return []\n"
    module(tmp_path, monkeypatch, "changing_module", text)
    before, again = (plan_run(config(tmp_path, "changing_module:rank")) for _ in range(2))
    (tmp_path / "changing_module.py").write_text(f"{text}# changed\n")
    after = plan_run(config(tmp_path, "changing_module:rank"))
    names = {stage.name for stage in before.stages()}
    fingerprints = [{name: plan.stage(name).fingerprint for name in names} for plan in (before, again, after)]
    assert fingerprints[0] == fingerprints[1]
    changed = {name for name in names if fingerprints[0][name] != fingerprints[2][name]}
    assert "probes" in changed
    assert not {"users", "profiles"} & changed
    with pytest.raises(ConfigError, match="no module no_such_module"):
        plan_run(config(tmp_path, "no_such_module:rank"))


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


def test_scores_of_numpy_and_of_lists_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    head = "import numpy as np\n\ndef rank(user, searches, retrieve, encode):\n    scores = [3, 1, 2, 0, 5, 4]\n"
    module(tmp_path, monkeypatch, "as_lists", f"{head}    return [scores for _ in searches]\n")
    module(tmp_path, monkeypatch, "as_arrays", f"{head}    return np.array([scores for _ in searches])\n")
    lists, arrays = (
        [[each.record_id for each in query.retrieved] for query in ranked(f"{name}:rank")]
        for name in ("as_lists", "as_arrays")
    )
    assert lists == arrays
    assert lists[0] == np.argsort([-3, -1, -2, 0, -5, -4]).astype(str).tolist()
