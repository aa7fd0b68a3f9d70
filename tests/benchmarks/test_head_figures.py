import numpy as np
import pytest
import torch
from rival_heads import Published, StackedHeads, fit_ours, our_codes, rows_alone, sklearn_codes, train_published
from simulated_heads import (
    BUCKET_KEY,
    LINEAGE,
    Shape,
    fit_bucket,
    fit_raw_bucket,
    ids_by_bucket,
    job_of,
    stage_of,
    write_bucket,
    write_raw_bucket,
)

from hydra_ray.scorer.heads.store import HeadStore

SHAPE = Shape(num_examples=12, num_candidates=4, rank=5)


def encode(texts):
    return np.stack([np.random.default_rng(len(text)).normal(size=8) for text in texts]).astype(np.float32)


def test_simulated_users_are_fitted_from_disk_and_found_in_the_store(tmp_path):
    stage = stage_of(str(tmp_path), 60, users_per_bucket=20)
    for bucket, user_ids in enumerate(ids_by_bucket(60, stage.num_buckets)):
        write_bucket(stage, bucket, user_ids, SHAPE)
        fit_bucket(stage, bucket, SHAPE)
    store = HeadStore(stage=stage, fold=0, bucket_key=BUCKET_KEY, lineage=LINEAGE)
    found = store.read_head("user-00000033")
    assert found is not None
    assert np.abs(found.code).min() > 0
    assert found.num_groups == 3


def test_raw_features_lead_to_the_heads_of_the_projected_ones(tmp_path):
    ids = ids_by_bucket(20, 1)[0]
    job, stage = job_of(str(tmp_path / "raw"), 20, 20, SHAPE), stage_of(str(tmp_path / "projected"), 20, 20)
    write_raw_bucket(job, 0, ids, SHAPE)
    fit_raw_bucket(job, 0, SHAPE)
    write_bucket(stage, 0, ids, SHAPE)
    fit_bucket(stage, 0, SHAPE)
    raw, projected = (
        HeadStore(stage=each, fold=0, bucket_key=BUCKET_KEY, lineage=LINEAGE).read_head("user-00000013")
        for each in (job.stage, stage)
    )
    assert raw is not None
    assert projected is not None
    np.testing.assert_allclose(raw.code, projected.code, atol=1e-6)


def test_the_loop_of_scikit_learn_has_the_same_objective():
    variances = SHAPE.variances()
    table = rows_alone(30, 40, variances, seed=0)
    expected = sklearn_codes(table, variances)
    has_both = ~np.isnan(expected).any(axis=1)
    assert has_both.sum() > 20
    np.testing.assert_allclose(our_codes(table, variances)[has_both], expected[has_both], atol=1e-4)


def test_a_one_hot_mask_picks_each_row_s_own_head(one_torch_thread):
    torch.manual_seed(0)
    heads, features, users = StackedHeads(3, 8, 4), torch.randn(6, 8), torch.tensor([0, 2, 1, 1, 0, 2])
    scores = heads(features, torch.eye(3)[users])
    for row, user in enumerate(users):
        hidden = torch.relu(features[row] @ heads.inward_UDW[user] + heads.bias_UW[user])
        torch.testing.assert_close(scores[row], hidden @ heads.outward_UW[user])


def test_both_ways_learn_from_the_same_texts(one_torch_thread):
    table = rows_alone(3, 20, SHAPE.variances(), seed=1)
    texts = ["x" * (1 + row % 7) for row in range(60)]
    settings = Published(width=4, num_epochs=2, batch_size=16)
    encoded = []

    def counted(batch):
        encoded.append(len(batch))
        return encode(batch)

    train_published(texts, table.user_of_candidate(), table.targets_N, counted, 3, settings)
    assert sum(encoded) == 1 + 2 * 60
    encoded.clear()
    assert fit_ours(table, texts, counted, SHAPE.variances()).shape == (3, 5)
    assert encoded == [60]


@pytest.fixture
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
