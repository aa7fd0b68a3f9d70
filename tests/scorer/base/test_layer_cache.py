"""The hidden-state cache against encoders that compute everything each time."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from hydra_ray.scorer.base.layer_cache import HiddenStateCache, LowerLayers, layers_of, num_equal_layers
from hydra_ray.scorer.base.model import Base, share_cache
from hydra_ray.scorer.base.spec import BaseShape

WORDS = ["cat", "dog", "red", "blue", "sun", "moon", "tea", "rice"]
QUERIES = ["cat", "dog red blue sun", "cat", "moon " * 12, "tea rice"]
CANDIDATES = ["red", "blue moon", "rice", "cat sun tea", "dog"]
NUM_LAYERS = 3


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 the padding of a batch moves the last digits."""
    monkeypatch.setattr("hydra_ray.scorer.base.encoder.has_fast_bfloat16", lambda _: False)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizerFast(vocab=str(path))


def encoder(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return BertModel(config, add_pooling_layer=False)


def base(tokenizer: BertTokenizerFast, interaction: str = "pair") -> Base:
    shape = BaseShape(interaction=interaction, handcrafted_names=(), width=4, max_text_tokens=32)
    return Base(encoder(), tokenizer, shape, seed=0)


def count_texts(module: nn.Module) -> list[int]:
    """Return a list that grows with each call by the number of texts that `module` saw."""
    counts: list[int] = []
    module.register_forward_hook(lambda _, arguments, __: counts.append(len(arguments[0])))
    return counts


@pytest.mark.parametrize("interaction", ["pair", "bilinear"])
@pytest.mark.parametrize("max_bytes", [1 << 20, 1500, 0])
def test_features_and_gradients_are_those_without_a_cache(
    tokenizer: BertTokenizerFast, interaction: str, max_bytes: int
) -> None:
    plain, kept = base(tokenizer, interaction), base(tokenizer, interaction)
    plain.train_layers(1)
    kept.train_layers(1, HiddenStateCache(max_bytes))
    with torch.inference_mode():
        kept.eval().learned_features(QUERIES[:3], CANDIDATES[:3])
    for each in (plain, kept):
        each.eval().learned_features(QUERIES, CANDIDATES).square().sum().backward()
    with torch.no_grad():
        expected = plain.learned_features(QUERIES, CANDIDATES)
        torch.testing.assert_close(kept.learned_features(QUERIES, CANDIDATES), expected, rtol=1e-4, atol=1e-5)
    for (name, mine), theirs in zip(kept.named_parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_lower_layers_see_a_text_once_while_there_is_room(tokenizer: BertTokenizerFast) -> None:
    roomy, full = base(tokenizer), base(tokenizer)
    for each, max_bytes, seen in ((roomy, 1 << 20, 5), (full, 0, 10)):
        each.train_layers(1, HiddenStateCache(max_bytes))
        lower, upper = (count_texts(layers_of(each.encoder)[number].attention) for number in (0, NUM_LAYERS - 1))
        for _ in range(2):
            each.learned_features(QUERIES, CANDIDATES)
        assert (sum(lower), sum(upper)) == (seen, 10)


def test_a_cache_that_is_cleared_has_its_room_again(tokenizer: BertTokenizerFast) -> None:
    cache = HiddenStateCache(1500)
    kept = base(tokenizer)
    kept.train_layers(1, cache)
    counts = count_texts(layers_of(kept.encoder)[0].attention)
    for queries in (["cat"], ["cat"], ["dog"], ["dog"]):
        kept.learned_features(queries, ["red"])
        cache.clear()
    for _ in range(2):
        kept.learned_features(["cat"], ["red"])
    assert len(counts) == 5


def test_bases_that_share_a_cache_have_their_own_features(tokenizer: BertTokenizerFast) -> None:
    def of_fold(fold: int) -> Base:
        one = base(tokenizer)
        torch.manual_seed(10 + fold)
        with torch.no_grad():
            for parameter in layers_of(one.encoder)[-1].parameters():
                parameter.add_(torch.randn_like(parameter))
            one.query_projection.add_(torch.randn_like(one.query_projection))
        return one.requires_grad_(False).eval()

    alone, sharing = [of_fold(fold) for fold in range(3)], [of_fold(fold) for fold in range(3)]
    share_cache(sharing)
    counts = [count_texts(layers_of(each.encoder)[0].attention) for each in sharing]
    features = [each.learned_features(QUERIES, CANDIDATES) for each in sharing]
    assert [sum(each) for each in counts] == [5, 0, 0]
    for mine, other in zip(features, alone, strict=True):
        torch.testing.assert_close(mine, other.learned_features(QUERIES, CANDIDATES), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[0], features[1])


def test_equal_layers_are_counted_from_below() -> None:
    assert num_equal_layers([encoder(), encoder()]) == NUM_LAYERS
    for number in range(NUM_LAYERS):
        other = encoder()
        nn.init.zeros_(layers_of(other)[number].attention.self.query.weight)
        assert num_equal_layers([encoder(), encoder(), other]) == number
    other = encoder()
    nn.init.zeros_(other.embeddings.word_embeddings.weight)
    assert num_equal_layers([encoder(), other]) == 0


def test_weights_keep_their_names(tokenizer: BertTokenizerFast) -> None:
    kept = encoder()
    LowerLayers(kept, 2, HiddenStateCache())
    assert list(kept.state_dict()) == list(encoder().state_dict())
