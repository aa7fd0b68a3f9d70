"""The first of the three rules that no shortcut may break: a new user's targets are seen by nothing that is fitted."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import Rows, examples_of, rows_of, run_config, user

from hydra_ray.config import Task
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.reranker_examples import reranker_examples
from hydra_ray.rows import Request, User, UserExamples, to_table
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.features import FeaturePart, FeatureWriter, features_table, read_features
from hydra_ray.storage import write_part

CONFIG = run_config()
NUM_FOLDS = 2


def copying(request: Request) -> list[str]:
    """Examples are copied; without any the answer is comedy."""
    examples = [message.content for message in request.messages if message.role == "assistant"]
    return [examples[-1] if examples else "comedy", "romance", "music"][: request.num_samples]


def people(is_cross_fitted: bool) -> list[User]:
    """Four users; in a cross-fitted run of two folds, else two of them new."""
    found = []
    for number in range(4):
        someone = replace(user(6 + number, is_new=number < 2), user_id=str(number))
        found.append(replace(someone, is_new=False, fold=number % NUM_FOLDS) if is_cross_fitted else someone)
    return found


def with_targets_of(users: list[User], fold: int, target: str) -> list[User]:
    """The users, the targets of those who are new in `fold` replaced."""
    return [
        replace(each, queries=tuple(replace(query, target=target) for query in each.queries))
        if each.is_new or each.fold == fold
        else each
        for each in users
    ]


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch):
    """Puts a base that tells the lengths of texts in the place of a trained one."""

    def learned(queries: list[str], candidates: list[str]) -> torch.Tensor:
        return torch.tensor([[len(query), len(text)] for query, text in zip(queries, candidates, strict=True)]).float()

    description = {
        "fold": None,
        "fingerprint": "base",
        "seed": 0,
        "holdout_fraction": 0.0,
        "training": {"best_epoch": 1},
    }

    def load(location: str, _device: object):
        names = Path(location).name.split(",")
        model = SimpleNamespace(
            shape=SimpleNamespace(width=2, handcrafted_names=names),
            num_features=2 + len(names),
            learned_features=learned,
            plain_features=lambda plain: plain.float(),
        )
        return model, description

    monkeypatch.setattr("hydra_ray.scorer.base.model.load_base", load)


def feature_parts(folder: Path, examples: list[UserExamples], *, has_soft_targets: bool) -> list[FeaturePart]:
    """What is read of these users' features in each fold."""
    stage = Stage(name="examples", fingerprint="0", root=str(folder), num_buckets=1)
    num_plain = len(examples[0].groups[0].candidates[0].plain)
    name = ",".join(map(str, range(num_plain)))
    write_part(stage.part("examples", 0), to_table(examples, UserExamples))
    FeatureWriter(stage, stage, stage, [name])(0)
    location = stage.part(features_table(name), 0)
    return [next(read_features(location, fold, has_soft_targets=has_soft_targets)) for fold in range(NUM_FOLDS)]


def is_same(first: FeaturePart, second: FeaturePart) -> bool:
    """Whether two parts agree in everything that a fit can look at."""
    try:
        np.testing.assert_equal(_content(first), _content(second))
    except AssertionError:
        return False
    return True


def _content(part: FeaturePart) -> dict[str, object]:
    table = part.table
    own = {name: getattr(part, name) for name in FeaturePart.__slots__ if name != "table"}
    return {**own, **{name: getattr(table, name) for name in type(table).__slots__}}


@pytest.mark.parametrize("task", [TASKS["planted"], TASKS["LaMP_4"]], ids=["closed", "text"])
@pytest.mark.parametrize("is_cross_fitted", [True, False])
def test_targets_of_a_folds_new_users_change_no_request_and_none_of_its_parts(
    tmp_path: Path, task: Task, is_cross_fitted: bool
):
    def parts(name: str, rows: list[Rows]) -> list[list[FeaturePart]]:
        records = [reranker_examples(each.user, each.probed, task, CONFIG) for each in rows]
        answers = examples_of(*rows, task=task)
        return [
            feature_parts(tmp_path / name / "reranker", records, has_soft_targets=True),
            feature_parts(tmp_path / name / "adapter", answers, has_soft_targets=not task.is_closed),
        ]

    users = people(is_cross_fitted)
    rows = [rows_of(each, copying, task) for each in users]
    before = parts("before", rows)
    for fold in range(NUM_FOLDS if is_cross_fitted else 1):
        others = [rows_of(each, copying, task) for each in with_targets_of(users, fold, "violence")]
        after = parts(f"after {fold}", others)
        assert [each.asked for each in others] == [each.asked for each in rows]
        for scorer in range(2):
            assert is_same(before[scorer][fold], after[scorer][fold])
        if is_cross_fitted:
            # The other fold's adapter learns from them, so that the comparison can tell; its reranker does not, because
            # what it leads to is shared by all folds.
            assert is_same(before[0][1 - fold], after[0][1 - fold])
            assert not is_same(before[1][1 - fold], after[1][1 - fold])


@pytest.mark.parametrize("fold", range(NUM_FOLDS))
def test_in_its_fold_a_new_users_pseudo_queries_alone_are_known(tmp_path: Path, fold: int):
    rows = [rows_of(each, copying) for each in people(is_cross_fitted=True)]
    part = feature_parts(tmp_path, examples_of(*rows), has_soft_targets=False)[fold]
    user_of_group = np.repeat(np.arange(4), np.diff(part.table.user_starts))
    for group, is_known in enumerate(part.is_known_G):
        is_new = user_of_group[group] % NUM_FOLDS == fold
        assert is_known == (part.is_pseudo_G[group] or not is_new)
        start, end = part.table.group_starts[group : group + 2]
        assert np.isnan(part.table.qualities_N[start:end]).all() == (not is_known)
        assert part.table.targets_N[start:end].any() == is_known
