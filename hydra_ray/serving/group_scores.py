"""One scorer of an export: base, head prior and heads, applied to one group of candidates at a time.

Shape suffixes: G groups (one), N candidates, D features, M learned features, E routed heads, R code width, U users
(one).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hydra_ray.adapt.own_labels import adapter_heads
from hydra_ray.config import ScorerConfig
from hydra_ray.lamp.tasks import task_of
from hydra_ray.rows import Group
from hydra_ray.scorer.base.model import Base, load_base
from hydra_ray.scorer.heads.kinds import HeadKind, head_kinds
from hydra_ray.scorer.heads.projection import EVALUATED, ProjectedPart
from hydra_ray.scorer.heads.selection import Heads, head_scores, heads_of
from hydra_ray.scorer.heads.store import HeadStore, heads_table, prior_folder, read_lineage
from hydra_ray.scorer.linear.groups import Floats, GroupTable
from hydra_ray.scorer.linear.prior import HeadPrior, read_prior
from hydra_ray.scorer.linear.routed import routed_scores
from hydra_ray.serving.export_folder import FOLD, Exported

SHARED = "shared"
MAX_KEPT_HEADS = 10_000
"""Number of users whose heads stay in memory."""
MAX_KEPT_SIDES = 100
"""Number of label sets whose projections stay in memory; a task with options has a different set for each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnHead:
    """A user's head, ready to score; without a code for a user who has none."""

    name: str
    heads: Heads


class GroupScorer:
    """Scorer of groups of candidates by their users' heads."""

    def __init__(self, exported: Exported, name: str) -> None:
        """Load everything but the heads.

        Args:
            name: reranker or adapter.

        Raises:
            StorageError: a part of it is missing or damaged.
            HeadMismatchError: base, head prior and heads do not belong together.
        """
        config: ScorerConfig = getattr(exported.config, name)
        task = task_of(exported.config.lamp)
        settings = adapter_heads(task, exported.config) if name == "adapter" else config.heads
        heads = exported.stage(f"{name}.heads")
        folder = prior_folder(heads.folder, FOLD)
        self._exported = exported
        self._base: Base = load_base(exported.path(name))[0]
        self._head_prior: HeadPrior = read_prior(folder)
        self._kinds: list[HeadKind] = head_kinds(settings)
        self._store = HeadStore(stage=heads, fold=FOLD, bucket_key=exported.bucket_key, lineage=read_lineage(folder))
        self._kept: OrderedDict[str, OwnHead] = OrderedDict()
        self._sides: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()

    def head_of(self, user_id: str) -> OwnHead:
        """Return the user's head."""
        if user_id not in self._kept:
            self._kept[user_id] = self._read_head(user_id)
            if len(self._kept) > MAX_KEPT_HEADS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(user_id)
        return self._kept[user_id]

    def scores(self, group: Group, history: Sequence[float], head: OwnHead) -> dict[str, Floats]:
        """Return scores of the group's candidates as a query's (N): by the user's own head, the shared and the routed
        ones.

        Args:
            history: the encoder's mean vector of the records that may be used; empty without routed heads.
        """
        features_ND, head_prior = self._features(group), self._head_prior
        folds_N = np.full(len(features_ND), -1)
        shared_N = head_prior.shared_scores(features_ND, np.zeros(len(features_ND), bool), folds_N)
        mixtures_GE, added_NE = head_prior.routes(np.array([history]), folds_N[:1], features_ND, folds_N)
        part = _part_of(
            _as_stored(shared_N),
            _as_stored(mixtures_GE),
            _as_stored(added_NE),
            _as_stored(features_ND @ head_prior.basis_DR),
            features_ND,
        )
        personal_N = head_scores(part, head.heads, self._kinds, head_prior, part.offsets_N)
        return {"personal": personal_N, "shared": part.shared_N, "routed": part.offsets_N}

    def _read_head(self, user_id: str) -> OwnHead:
        shared = OwnHead(name=SHARED, heads=Heads(chosen_U=np.array([-1]), codes=[]))
        if self._exported.part_of(self._store.stage, heads_table(FOLD), user_id) is None:
            return shared
        table = self._store.read_heads_of([user_id])
        if not table.num_rows:
            return shared
        return OwnHead(name=table["configuration"][0].as_py(), heads=heads_of(table, self._kinds))

    def _features(self, group: Group) -> Floats:
        """Return the base's features of the candidates, the handcrafted ones last (N, D)."""
        plain = torch.tensor([candidate.plain for candidate in group.candidates])
        with torch.inference_mode():
            return torch.cat([self._learned(group), self._base.plain_features(plain)], dim=1).cpu().numpy()

    def _learned(self, group: Group) -> torch.Tensor:
        """Return the base's learned features (N, M); the projections of label sets are cached, since they recur in
        every group.
        """
        texts = tuple(candidate.text for candidate in group.candidates)
        if self._base.candidate_projection is None or not self._base.shape.width:
            return self._base.learned_features([group.query] * len(texts), texts)
        if texts not in self._sides:
            self._sides[texts] = self._base.candidate_side(texts)
            if len(self._sides) > MAX_KEPT_SIDES:
                self._sides.popitem(last=False)
        return self._base.query_side([group.query]) * self._sides[texts]


def _as_stored(values: Floats) -> Floats:
    """Round as the tables of a run do, so that a score is exactly the one that the run computed."""
    return values.astype(np.float32).astype(np.float64)


def _part_of(
    shared_N: Floats, mixtures_GE: Floats, added_NE: Floats, inputs_NR: Floats, features_ND: Floats
) -> ProjectedPart:
    """Return one user with one group whose target is unknown."""
    num_candidates = len(shared_N)
    unknown_N = np.full(num_candidates, np.nan)
    return ProjectedPart(
        user_ids=[""],
        is_new_U=np.array([True]),
        fold_G=np.array([EVALUATED]),
        shared_N=shared_N,
        mixtures_GE=mixtures_GE,
        added_NE=added_NE,
        offsets_N=routed_scores(shared_N, added_NE, np.repeat(mixtures_GE, num_candidates, axis=0)),
        table=GroupTable(
            features_ND=inputs_NR,
            targets_N=np.zeros(num_candidates),
            qualities_N=unknown_N,
            group_starts=np.array([0, num_candidates]),
            user_starts=np.array([0, 1]),
        ),
        features_ND=features_ND,
    )
