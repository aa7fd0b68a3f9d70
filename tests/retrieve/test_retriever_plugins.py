"""Retrievers from elsewhere: that of docs/plugins.md as it stands there, and what goes wrong with others."""

from pathlib import Path

import numpy as np
import pytest
from builders import user
from markdown_blocks import blocks_of

from hydra_ray.config import ProbesConfig, RetrieveConfig
from hydra_ray.config.yaml_documents import parse_document
from hydra_ray.errors import ConfigError
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.retrieve.ranking import RankedQuery, rank_queries

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## A retriever\n")[2].partition("\n## ")[0]
BLOCKS = {block.language: block.text for block in blocks_of(SECTION)}


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
