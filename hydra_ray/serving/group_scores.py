"""One scorer of an export: base, head prior and heads, applied to one group of candidates at a time.

Shape suffixes: G groups (one), N candidates, D features, M learned features, E routed heads, R code width, U users
(one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch

from hydra_ray.adapt.own_labels import adapter_heads
from hydra_ray.config import ScorerConfig
from hydra_ray.lamp.tasks import task_of
from hydra_ray.rows import Group
from hydra_ray.scorer.base.model import Base, load_base
from hydra_ray.scorer.heads.kinds import HeadKind, head_kinds
from hydra_ray.scorer.heads.projection import EVALUATED, ProjectedPart
from hydra_ray.scorer.heads.selection import Heads, head_scores, heads_of
from hydra_ray.scorer.heads.store import Lineage, prior_folder, read_lineage
from hydra_ray.scorer.linear.groups import Floats, GroupTable
from hydra_ray.scorer.linear.prior import HeadPrior, read_prior
from hydra_ray.scorer.linear.routed import routed_scores
from hydra_ray.serving.encoding import ENCODING, KeptVectors
from hydra_ray.serving.export_folder import FOLD, Exported
from hydra_ray.serving.known import SHARED

MAX_KEPT_SIDES = 100
"""Number of label sets whose projections stay in memory; a task with options has a different set for each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnHead:
    """A user's head, ready to score; without a code for a user who has none."""

    name: str
    heads: Heads


class GroupScorer:
    """Scorer of groups of candidates by their users' heads."""

    def __init__(self, exported: Exported, name: str, encode: KeptVectors) -> None:
        """Load the base and the head prior.

        Args:
            name: reranker or adapter.
            encode: encoder by which texts are compared. Queries are not encoded once more by a base that was not
                trained, whose encoder is the same.

        Raises:
            StorageError: a part of it is missing or damaged.
        """
        config: ScorerConfig = getattr(exported.config, name)
        task = task_of(exported.config.lamp)
        settings = adapter_heads(task, exported.config) if name == "adapter" else config.heads
        folder = prior_folder(exported.stage(f"{name}.heads").folder, FOLD)
        self.lineage: Lineage = read_lineage(folder)
        """Fingerprints of the base and prior that heads must belong to."""
        self._base: Base = load_base(exported.path(name))[0]
        self._head_prior: HeadPrior = read_prior(folder)
        self._kinds: list[HeadKind] = head_kinds(settings)
        shape = self._base.shape
        is_same = shape.pooling == "mean" and encode.encoder.is_like(self._base.encoder, shape.max_text_tokens)
        self._encode = encode if is_same else None
        self._candidate_side = lru_cache(MAX_KEPT_SIDES)(self._base.candidate_side)

    def own_head(self, row: pa.Table | None) -> OwnHead:
        """Return the head in a user's row of HEADS_SCHEMA; the shared one without a row.

        Raises:
            HeadMismatchError: it is of a kind that the run does not fit.
        """
        if row is None:
            return OwnHead(name=SHARED, heads=Heads(chosen_U=np.array([-1]), codes=[]))
        return OwnHead(name=row["configuration"][0].as_py(), heads=heads_of(row, self._kinds))

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

    def _features(self, group: Group) -> Floats:
        """Return the base's features of the candidates, the handcrafted ones last (N, D)."""
        plain = torch.tensor([candidate.plain for candidate in group.candidates])
        with ENCODING, torch.inference_mode():
            return torch.cat([self._learned(group), self._base.plain_features(plain)], dim=1).cpu().numpy()

    def _learned(self, group: Group) -> torch.Tensor:
        """Return the base's learned features (N, M); the projections of label sets are cached, since they recur in
        every group.
        """
        texts = tuple(candidate.text for candidate in group.candidates)
        if self._base.candidate_projection is None or not self._base.shape.width:
            return self._base.learned_features([group.query] * len(texts), texts)
        return self._query_side(group.query) * self._candidate_side(texts)

    def _query_side(self, query: str) -> torch.Tensor:
        if self._encode is None:
            return self._base.query_side([query])
        return self._base.query_side_of(torch.from_numpy(self._encode([query])))


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
