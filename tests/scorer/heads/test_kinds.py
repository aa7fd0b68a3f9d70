"""Kinds of heads: one that is added by its entry alone, as CONTRIBUTING.md says, is fitted and scores."""

import numpy as np
import pytest

from hydra_ray.config import HeadsConfig
from hydra_ray.scorer.heads import kinds
from hydra_ray.scorer.heads.kinds import Fit, head_kinds
from hydra_ray.scorer.linear.groups import GroupTable

CONFIG = HeadsConfig(kinds=("paper", "lowrank", "shared"), ranks=(8, 2))


def test_the_shared_kind_comes_first_and_each_rank_is_a_kind():
    assert [each.name for each in head_kinds(CONFIG)] == ["shared", "lowrank-2", "lowrank-8", "paper"]


def test_an_added_kind_is_one_that_a_user_may_get(monkeypatch: pytest.MonkeyPatch):
    table = GroupTable(
        features_ND=np.eye(4),
        targets_N=np.array([1.0, 0.0, 0.0, 1.0]),
        qualities_N=np.array([1.0, 0.0, 0.0, 1.0]),
        group_starts=np.array([0, 2, 4]),
        user_starts=np.array([0, 1, 2]),
    )

    def fit(head_kind, table, offsets_N, head_prior, kept_FG):
        codes_UR = np.full((table.num_users, 1), 3.0)
        return Fit(codes_UR=codes_UR, precisions_UR=np.zeros((table.num_users, 0))), [codes_UR for _ in kept_FG]

    added = kinds._Kind(  # pyright: ignore[reportPrivateUsage]
        reads_features=False,
        inputs=lambda head_kind, part, head_prior: part.table.features_ND,
        fit=fit,
        scores=lambda head_kind, inputs_ND, offsets_N, user_N, codes_UR: offsets_N + codes_UR[user_N, 0],
    )
    monkeypatch.setitem(kinds._KINDS, "mine", added)  # pyright: ignore
    # As if the name were in the list of the setting too.
    found = head_kinds(CONFIG.model_copy(update={"kinds": ("shared", "mine")}))
    assert [each.name for each in found] == ["shared", "mine"]
    fitted, left_out = found[1].fit(table, np.zeros(4), None, np.array([0, 1]), range(2))  # pyright: ignore
    assert len(left_out) == 2
    scores = found[1].scores(table.features_ND, np.ones(4), table.user_of_candidate(), fitted.codes_UR)
    assert scores.tolist() == [4.0] * 4
