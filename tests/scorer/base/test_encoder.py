import numpy as np
import pytest
from builders import ENCODER

from hydra_ray.errors import ConfigError, ModelError

pytestmark = pytest.mark.ray

TEXTS = ["a war story", "", "love", "a war story", "a long story of love, war and the sea " * 8, "??"]


def test_vectors_are_the_mean_hidden_states_of_each_text_alone():
    import torch
    from transformers import AutoModel, AutoTokenizer

    from hydra_ray.models import resolve_model
    from hydra_ray.scorer.base.encoder import open_encoder

    folder = resolve_model(ENCODER)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.eval()
    vectors = open_encoder(ENCODER, 32)(TEXTS)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
            expected = model(**inputs).last_hidden_state[0].mean(0).numpy()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert vector @ expected / np.linalg.norm(expected) == pytest.approx(1, abs=2e-3)  # bfloat16


def test_the_first_tokens_state_can_stand_for_a_text():
    import torch

    from hydra_ray.models import resolve_model
    from hydra_ray.scorer.base.encoder import load_encoder, pool

    encoder, tokenizer = load_encoder(resolve_model(ENCODER))
    encoder.eval()
    with torch.inference_mode():
        vectors = pool(encoder, tokenizer, TEXTS, None, 32, pooling="first")
        for text, vector in zip(TEXTS, vectors, strict=True):
            inputs = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
            expected = encoder(**inputs).last_hidden_state[0, 0]
            assert torch.cosine_similarity(vector, expected, dim=0).item() == pytest.approx(1, abs=2e-3)  # bfloat16


def test_a_longformers_first_token_attends_to_all_others():
    import torch
    from transformers import LongformerConfig, LongformerModel

    from hydra_ray.models import resolve_model
    from hydra_ray.scorer.base.encoder import load_encoder, pool

    torch.manual_seed(0)
    tokenizer = load_encoder(resolve_model(ENCODER))[1]
    config = LongformerConfig(
        attention_window=4,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        type_vocab_size=2,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    encoder = LongformerModel(config, add_pooling_layer=False).eval()
    text = "a long story of love, war and the sea, of tea and rice and of kings on the road"
    inputs = tokenizer(text, return_tensors="pt")
    is_first = torch.zeros_like(inputs["input_ids"])
    is_first[:, 0] = 1
    with torch.inference_mode():
        (found,) = pool(encoder, tokenizer, [text], None, 48, pooling="first")
        expected = encoder(**inputs, global_attention_mask=is_first).last_hidden_state[0, 0]
        of_neighbours = encoder(**inputs).last_hidden_state[0, 0]
    assert torch.cosine_similarity(found, expected, dim=0).item() == pytest.approx(1, abs=5e-3)  # bfloat16
    assert torch.cosine_similarity(found, of_neighbours, dim=0).item() < 0.98


def test_equal_texts_have_equal_vectors():
    from hydra_ray.scorer.base.encoder import open_encoder

    vectors = open_encoder(ENCODER, 32)(TEXTS * 50)
    assert (vectors.reshape(50, len(TEXTS), -1) == vectors[: len(TEXTS)]).all()
    assert (vectors[0] == vectors[3]).all()


def test_of_a_long_conversation_the_newest_messages_are_read():
    from hydra_ray.conversations import conversation_text
    from hydra_ray.scorer.base.encoder import open_encoder

    old = [{"role": "user", "content": "war " * 40}, {"role": "assistant", "content": "sea " * 9}]
    new = [{"role": "user", "content": "a story of love"}]
    whole, newest, other = (conversation_text(each) for each in (old + new, old[1:] + new, old + old[:1]))
    vectors = open_encoder(ENCODER, 32)([whole, newest, other])
    assert vectors[0] @ vectors[1] > 0.999
    assert vectors[0] @ vectors[2] < 0.9


def test_no_texts_have_no_vectors():
    from hydra_ray.scorer.base.encoder import open_encoder

    assert open_encoder(ENCODER, 32)([]).shape == (0, 384)


def test_an_encoder_is_loaded_once():
    from hydra_ray.scorer.base.encoder import open_encoder

    assert open_encoder(ENCODER, 32) is open_encoder(ENCODER, 32)


def test_an_encoder_is_like_another_with_the_same_weights_and_length():
    from hydra_ray.models import resolve_model
    from hydra_ray.scorer.base.encoder import CPU, load_encoder, open_encoder, prepare_encoding

    encoder, (other, _) = open_encoder(ENCODER, 32), load_encoder(resolve_model(ENCODER))
    prepare_encoding(other, CPU)
    assert encoder.is_like(other, 32)
    assert not encoder.is_like(other, 48)
    next(other.parameters()).data[0, 0] += 1
    assert not encoder.is_like(other, 32)


def test_an_encoder_that_is_missing_or_reads_less_is_refused(tmp_path):
    from hydra_ray.scorer.base.encoder import open_encoder

    with pytest.raises(ConfigError, match=r"retrieve\.max_text_tokens is 9000, but the encoder reads at most 512"):
        open_encoder(ENCODER, 9000)
    with pytest.raises(ModelError):
        open_encoder(str(tmp_path), 32)
