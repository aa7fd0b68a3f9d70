import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from planted_heads import fit_projected_buckets, head_job, in_row_groups, scored, stored_heads
from sklearn.feature_extraction.text import HashingVectorizer

from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.features import SCHEMA, WIDTHS_KEY
from hydra_ray.scorer.heads.store import BASE_KEY, read_lineage
from hydra_ray.scorer.heads.tasks import make_prior, make_projected
from hydra_ray.scorer.linear.prior import read_prior
from hydra_ray.storage import write_part

NUM_USERS, NUM_QUERIES, NUM_LEARNED, NUM_BUCKETS = 60, 8, 10, 3
OUTPUTS = {"LaMP_2N": "category", "LaMP_3": "score"}
WORDS = HashingVectorizer(n_features=NUM_LEARNED)


def users_of(root, split):
    return [sample["profile"] for sample in json.loads((root / f"{split}_questions.json").read_text())[:NUM_USERS]]


def label_features(records, query, labels, output):
    """Return features of the labels for one record: words under each label, its fraction and its nearest use."""
    others = [record for record in records if record is not query]
    words = WORDS.transform([f"{label} {label}{word}" for label in labels for word in query["text"].split()[:5]])
    learned = words.toarray().reshape(len(labels), -1, NUM_LEARNED).sum(axis=1)
    own = set(query["text"].split())
    shares = [np.mean([str(each[output]) == label for each in others] or [0]) for label in labels]
    overlaps = [
        max((len(own & set(each["text"].split())) for each in others if str(each[output]) == label), default=0)
        for label in labels
    ]
    return np.column_stack([learned, shares, np.log1p(overlaps)])


def feature_row(user_id, records, labels, output, *, is_new):
    """A user whose first records are pseudo-queries, with a group of all labels each."""
    queries = records[:NUM_QUERIES]
    features = [label_features(records, query, labels, output) for query in queries]
    return {
        "user_id": user_id,
        "is_new": is_new,
        "fold": None,
        "history": [],
        "is_unseen": True,
        "group_ids": [f"g{place}" for place in range(len(queries))],
        "query_ids": [f"q{place}" for place in range(len(queries))],
        "variants": ["personal"] * len(queries),
        "is_pseudo": [True] * len(queries),
        "num_candidates": [len(labels)] * len(queries),
        "candidate_ids": labels * len(queries),
        "qualities": [float(str(query[output]) == label) for query in queries for label in labels],
        "features": np.ravel(features).tolist() if queries else [],
    }


def real_features(root, name):
    source, output = Path(os.environ["HYDRA_LAMP_DIR"], name), OUTPUTS[name]
    users = {split: users_of(source, split) for split in ("train", "dev")}
    labels = sorted({str(record[output]) for profiles in users.values() for own in profiles for record in own})
    stage = Stage(name="real.features", fingerprint="f" * 16, root=str(root), num_buckets=NUM_BUCKETS)
    rows = [
        feature_row(f"{split}-{place:03d}", records, labels, output, is_new=split == "dev")
        for split, profiles in sorted(users.items())
        for place, records in enumerate(profiles)
    ]
    metadata = {BASE_KEY: b"base0", WIDTHS_KEY: f"{NUM_LEARNED} 2".encode()}
    for bucket in stage.buckets:
        table = pa.Table.from_pylist(rows[bucket::NUM_BUCKETS], schema=SCHEMA.with_metadata(metadata))
        write_part(stage.part("features/base", bucket), table)
    return stage, len(rows)


@pytest.mark.lamp
@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_heads_of_real_users_fitted_at_once_are_those_fitted_user_by_user(tmp_path, name):
    if "HYDRA_LAMP_DIR" not in os.environ:
        pytest.skip("HYDRA_LAMP_DIR is not set")
    features, num_users = real_features(tmp_path, name)
    job = head_job(tmp_path, features, kinds=("lowrank",), ranks=(8,))
    make_prior(job)
    # A prior that lets heads differ, whether or not features as cheap as these support it.
    head_prior = replace(read_prior(job.prior_folder), variances={8: np.full(8, 0.1)})
    head_prior.write(job.prior_folder, read_lineage(job.prior_folder).head_prior)
    for bucket in features.buckets:
        make_projected(job, read_prior(job.prior_folder), bucket)
    fit_projected_buckets(job)
    alone = in_row_groups(job, 1, tmp_path / "alone")
    fit_projected_buckets(alone)
    heads = stored_heads(job)
    assert len(heads) == num_users
    assert np.median([np.abs(head.code).max() for head in heads]) > 0.01
    for together, by_itself in zip(heads, stored_heads(alone), strict=True):
        assert together.user_id == by_itself.user_id
        assert together.configuration == by_itself.configuration
        np.testing.assert_allclose(together.code, by_itself.code, atol=1e-4)
        np.testing.assert_allclose(together.held_out_losses, by_itself.held_out_losses, rtol=1e-4)
    scores, scores_alone = scored(job.stage), scored(alone.stage)
    for user_id, user in scores.items():
        pairs = zip(user.groups, scores_alone[user_id].groups, strict=True)
        own = [[(a.personal, b.personal) for a, b in zip(g.candidates, h.candidates, strict=True)] for g, h in pairs]
        np.testing.assert_allclose(np.reshape(own, (-1, 2)) @ [1, -1], 0, atol=1e-3)
