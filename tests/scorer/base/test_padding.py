"""Padded batches against the tokenizer's own padding."""

import pytest
import torch
from test_layer_cache import CANDIDATES, QUERIES, tokenizer  # noqa: F401

from hydra_ray.scorer.base.encoder import _batches


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("second", [CANDIDATES, [None] * len(QUERIES)])
def test_batches_are_as_the_tokenizer_pads_them(monkeypatch, tokenizer, side, second):  # noqa: F811
    monkeypatch.setattr(tokenizer, "padding_side", side)
    batches = list(_batches(tokenizer, list(zip(QUERIES, second, strict=True)), 12, 30))
    assert len(batches) > 1
    for rows, found in batches:
        first = [QUERIES[row] for row in rows]
        other = None if second[0] is None else [second[row] for row in rows]
        expected = tokenizer(first, other, truncation=True, max_length=12, padding=True, return_tensors="pt")
        assert set(found) == set(expected)
        for name, tensor in found.items():
            assert tensor.dtype == torch.int64
            assert torch.equal(tensor, expected[name]), name
