"""Encoding on another device than the CPU, as far as that can be seen without one: torch's meta device computes shapes
and refuses tensors of two devices."""

from contextlib import nullcontext

import pytest
import torch
from test_layer_cache import CANDIDATES, QUERIES, base, encoder, tokenizer  # noqa: F401
from torch import nn

from hydra_ray.errors import ConfigError
from hydra_ray.scorer.base import encoder as encoders
from hydra_ray.scorer.base.encoder import CPU, device_of, pool, prepare_encoding

META = torch.device("meta")


def test_without_a_reserved_gpu_the_cpu_encodes():
    assert device_of(0) == CPU


def test_a_reserved_gpu_that_torch_cannot_use_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"placement\.encoder_gpus is 0\.5, but torch .* finds no GPU"):
        device_of(0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(0.5) == torch.device("cuda")


@pytest.mark.parametrize("interaction", ["pair", "bilinear"])
def test_features_are_computed_on_the_encoder_s_device(monkeypatch, tokenizer, interaction):  # noqa: F811
    monkeypatch.setattr(encoders, "has_fast_bfloat16", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no meta device
    # It looks at the mask's values, and meta tensors have none.
    monkeypatch.setattr("transformers.masking_utils._ignore_bidirectional_mask_sdpa", lambda *_: False)
    monkeypatch.setitem(encoders.BATCH_TOKENS, "meta", 64)
    own = base(tokenizer, interaction).to(META)
    prepare_encoding(own.encoder, META)
    with torch.inference_mode():
        learned = own.learned_features(QUERIES, CANDIDATES)
        plain = own.plain_features(torch.zeros(len(QUERIES), 0))
        whole = torch.cat([learned, plain], dim=1)
    assert whole.device == META
    assert whole.shape == (len(QUERIES), own.num_features)


@pytest.mark.skipif(not encoders.has_fast_bfloat16(CPU), reason="this processor has no bfloat16")
def test_weights_that_are_rounded_once_encode_to_the_bit_as_autocast_does(tokenizer):  # noqa: F811
    plain, prepared = encoder().eval().requires_grad_(False), encoder()
    prepare_encoding(prepared, CPU)
    dtypes = {type(module): module.weight.dtype for module in prepared.modules() if hasattr(module, "weight")}
    assert dtypes == {nn.Embedding: torch.float32, nn.LayerNorm: torch.float32, nn.Linear: torch.bfloat16}
    with torch.inference_mode():
        expected, found = (pool(each, tokenizer, QUERIES, CANDIDATES, 32) for each in (plain, prepared))
    assert torch.equal(found, expected)
