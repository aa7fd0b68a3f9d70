"""Answers joined with scores, and the curves of best-of-N that finished runs have of them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
from builders import ENCODER, run_config
from synthetic import WORDS

from hydra_ray.config import RunConfig
from hydra_ray.lamp.quality import quality
from hydra_ray.runs.user_answers import answered_users
from hydra_ray.stages.answers import scored_users
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.stages.scored_answers import scored_answers

# Third parties: what imports Ray uses what others have deprecated.
pytestmark = pytest.mark.filterwarnings("default")

TITLES = {"name": "titles", "kind": "text", "instruction": "Write a title."}
_BASE = {"base": {"encoder": ENCODER, "max_text_tokens": 32, "num_epochs": 0}}


def users_file(folder: Path) -> Path:
    """Users who wrote titles, two of them with two queries."""
    rng = random.Random(0)

    def text(num_words: int) -> str:
        return " ".join(rng.choices(WORDS, k=num_words))

    rows = [
        {
            "user_id": f"user {number}",
            "history": [{"id": f"r{each}", "input": text(20), "output": text(6)} for each in range(7)],
            "queries": [{"id": f"q{each}", "input": text(20), "target": text(6)} for each in range(1 + (number < 2))],
        }
        for number in range(9)
    ]
    path = folder / "users.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def titles_config(root: Path) -> RunConfig:
    lamp = {"task": TITLES, "users_files": [str(users_file(root))], "planted": None}
    return run_config(str(root / "hydra"), lamp=lamp, users={"num_folds": 3}, reranker=_BASE, adapter=_BASE)


@pytest.fixture(scope="module", params=["text", "classification"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """A finished run: cross-fitted on texts, and not so on labels."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        in_process.install(patch)
        config = (
            titles_config(root) if request.param == "text" else run_config(str(root), reranker=_BASE, adapter=_BASE)
        )
        yield personalize(config)


def metrics_of(plan: Plan) -> dict[str, Any]:
    return json.loads(Path(plan.run_folder, "metrics.json").read_text())


def test_users_have_the_scores_of_the_fold_in_which_they_are_new(finished: Plan) -> None:
    expected = {row.user.user_id: row for bucket in finished.answers.buckets for row in scored_users(finished, bucket)}
    found = {user.user_id: scored for user, _, scored in scored_answers(finished)}
    assert found == {user_id: row.adapter for user_id, row in expected.items()}
    assert found


def test_one_draft_at_random_and_the_oracle_are_those_of_the_pools(finished: Plan) -> None:
    metrics = metrics_of(finished)
    best_of_n, (first, *_, last) = metrics["best_of_n"], metrics["best_of_n"]["points"]
    qualities = [
        [quality(finished.task, each, target) for each in query.pool]
        for user, answered in answered_users(finished.users, finished.answers)
        for query in answered.queries
        for target in [next(each.target for each in user.queries if each.query_id == query.query_id)]
        if target is not None
    ]
    assert best_of_n["num_queries"] == len(qualities) == metrics["num_queries"]
    assert best_of_n["most_drafts"] == last["num_drafts"] == max(map(len, qualities))
    assert first["oracle"]["value"] == pytest.approx(np.mean([np.mean(each) for each in qualities]))
    assert first["quality"]["personal"] == first["quality"]["shared"] == first["oracle"]
    assert last["oracle"]["value"] == pytest.approx(np.mean([max(each) for each in qualities]))
    assert last["oracle"]["value"] == pytest.approx(metrics["systems"]["oracle"]["quality"]["value"])


@pytest.mark.parametrize("finished", ["text"], indirect=True)
def test_of_all_drafts_of_a_text_the_own_head_takes_the_one_that_its_system_answers(finished: Plan) -> None:
    metrics = metrics_of(finished)
    last = metrics["best_of_n"]["points"][-1]["quality"]["personal"]
    assert last == pytest.approx(metrics["systems"]["hydra_personal"]["quality"])
    assert metrics["best_of_n"]["num_queries"] == 11
