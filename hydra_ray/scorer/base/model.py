"""The scorer's base: a text encoder and a projection that turn (query, candidate) into a few learned features.

"pair" encodes the two texts together, P enc(query, candidate), so that the encoder sees them interact. "bilinear"
encodes each alone and multiplies the projections elementwise, P enc(query) * Q enc(candidate): for closed label sets,
where the same few candidates occur in every group.

Shape suffixes: N candidates, T distinct texts, H the encoder's width, M learned features.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from hydra_ray import storage
from hydra_ray.errors import ConfigError, DamagedError
from hydra_ray.scorer.base.encoder import CPU, distinct, load_encoder, pool, prepare_encoding, require_length
from hydra_ray.scorer.base.layer_cache import HiddenStateCache, LowerLayers, layers_of, num_equal_layers
from hydra_ray.scorer.base.spec import DESCRIBED, DESCRIPTION, BaseShape
from hydra_ray.storage.listing_updates import digests_of, require_files
from hydra_ray.temporary import temporary_folder

_PROJECTION = "projection.safetensors"
_DIGESTS = "digests"
"""Key in the description: the digests of the files, by name."""


class Base(nn.Module):
    """Encoder, projection, and standardization of the handcrafted features."""

    plain_means: torch.Tensor
    plain_scales: torch.Tensor

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, shape: BaseShape, seed: int) -> None:
        super().__init__()
        hidden = encoder.config.hidden_size
        if shape.width > hidden:
            raise ConfigError(
                f"base.width is {shape.width}, but the encoder's hidden width is {hidden}: "
                f"set base.width={hidden} or less"
            )
        require_length(encoder.config, shape.max_text_tokens, "base.max_text_tokens")
        self.encoder: PreTrainedModel = encoder
        self.tokenizer = tokenizer
        self.shape = shape
        self._trained_layers: list[nn.Module] = []  # a plain list: the encoder owns them already
        self._lower: LowerLayers | None = None
        # Orthonormal rows keep lengths, and the mean of the bilinear features is close to the cosine of the two texts.
        generator = torch.Generator().manual_seed(seed)
        rows = torch.linalg.qr(torch.randn(hidden, shape.width, generator=generator)).Q.T * hidden**0.5
        self.query_projection = nn.Parameter(rows.clone())
        self.candidate_projection = nn.Parameter(rows.clone()) if shape.interaction == "bilinear" else None
        self.register_buffer("plain_means", torch.zeros(len(shape.handcrafted_names)))
        self.register_buffer("plain_scales", torch.ones(len(shape.handcrafted_names)))

    @property
    def num_features(self) -> int:
        """Number of learned and handcrafted features of a candidate."""
        return self.shape.width + len(self.shape.handcrafted_names)

    def train_layers(self, num_layers: int | Literal["all"], cache: HiddenStateCache | None = None) -> None:
        """Train the upper `num_layers` layers of the encoder and the projection; freeze what is below, the embeddings
        included unless all are trained.

        Args:
            cache: stores the output of the frozen layers.
        """
        self.encoder.requires_grad_(num_layers == "all")
        layers = layers_of(self.encoder)
        num_frozen = 0 if num_layers == "all" else max(len(layers) - num_layers, 0)
        self._trained_layers = [self.encoder] if num_layers == "all" else layers[num_frozen:]
        for layer in self._trained_layers:
            layer.requires_grad_(True)
        if cache is not None:
            self.keep_below(num_frozen, cache)

    def keep_below(self, num_layers: int, cache: HiddenStateCache) -> None:
        """Let `cache` store the output of the encoder's first `num_layers` layers, which must not be trained."""
        self._lower = LowerLayers(self.encoder, num_layers, cache) if num_layers else None

    def train(self, mode: bool = True) -> "Base":
        """Switch dropout on in the trained layers only."""
        super().train(False)
        self.training = mode
        for layer in self._trained_layers:
            layer.train(mode)
        return self

    def learned_features(self, queries: Sequence[str], candidates: Sequence[str]) -> torch.Tensor:
        """Return the features (N, M) of each query with the candidate at the same position; repeated texts are encoded
        once.
        """
        if not self.shape.width:
            return self.query_projection.new_zeros(len(queries), 0)
        if self.candidate_projection is None:
            pairs, place_of = distinct(list(zip(queries, candidates, strict=True)))
            pooled_TH = self._pool([query for query, _ in pairs], [candidate for _, candidate in pairs])
            return (pooled_TH @ self.query_projection.T)[place_of]
        return self.query_side(queries) * self.candidate_side(candidates)

    def query_side(self, queries: Sequence[str]) -> torch.Tensor:
        """Return the projected queries of bilinear features (N, M)."""
        return self._projected(queries, self.query_projection)

    def query_side_of(self, vectors_NH: torch.Tensor) -> torch.Tensor:
        """Return the same of queries whose vectors by the base's own encoder are known (N, M)."""
        return vectors_NH @ self.query_projection.T

    def candidate_side(self, candidates: Sequence[str]) -> torch.Tensor:
        """Return the projected candidates of bilinear features (N, M)."""
        assert self.candidate_projection is not None, "a base that encodes pairs has no sides"
        return self._projected(candidates, self.candidate_projection)

    def plain_features(self, plain: torch.Tensor) -> torch.Tensor:
        """Return the handcrafted features, standardized over the training users."""
        return (plain.to(self.plain_means) - self.plain_means) / self.plain_scales

    def _projected(self, texts: Sequence[str], projection: torch.Tensor) -> torch.Tensor:
        found, place_of = distinct(list(texts))
        return (self._pool(found) @ projection.T)[place_of]

    def _pool(self, texts: Sequence[str], second: Sequence[str] | None = None) -> torch.Tensor:
        shape = self.shape
        return pool(self.encoder, self.tokenizer, texts, second, shape.max_text_tokens, self._lower, shape.pooling)


def share_cache(bases: Sequence[Base]) -> HiddenStateCache:
    """Return a cache of the layers that are equal in all of these bases, which must not be trained."""
    cache = HiddenStateCache()
    if len(bases) > 1:
        num_layers = num_equal_layers([base.encoder for base in bases])
        for base in bases:
            base.keep_below(num_layers, cache)
    return cache


def new_base(encoder_folder: str, shape: BaseShape, seed: int) -> Base:
    """Build an untrained base around the encoder in `encoder_folder`.

    Raises:
        ModelError: there is no encoder.
    """
    return Base(*load_encoder(encoder_folder), shape, seed)


def write_base(base: Base, location: str, description: Mapping[str, Any]) -> str:
    """Write a base, its description last.

    Returns:
        Its fingerprint, a hash of the weights.
    """
    with temporary_folder("base") as folder:
        base.encoder.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        projection = {name: t for name, t in base.state_dict().items() if not name.startswith("encoder.")}
        save_file({name: tensor.contiguous() for name, tensor in projection.items()}, os.path.join(folder, _PROJECTION))
        fingerprint = _weights_fingerprint(folder)
        files = sorted(os.listdir(folder))
        storage.copy_files(folder, location, files)
        digests = digests_of(folder, files)
    whole = {**base.shape.to_json(), "fingerprint": fingerprint, "files": files, _DIGESTS: digests, **description}
    storage.write_json(storage.join(location, DESCRIPTION), whole)
    return fingerprint


def load_base(location: str, device: torch.device = CPU) -> tuple[Base, dict[str, Any]]:
    """Load the base at `location`, ready to score on a device, and its description.

    Raises:
        StorageError: there is none, or its weights differ from those that were written.
        ModelError: it is incomplete.
    """
    description = storage.read_json(storage.join(location, DESCRIPTION), DESCRIBED)
    shape = BaseShape.from_json(description)
    with temporary_folder("base") as temporary:
        folder = location
        if storage.is_uri(location):
            storage.copy_files(location, temporary, description["files"])
            folder = temporary
        _require_whole(folder, description, location)
        base = Base(*load_encoder(folder), shape, seed=0)
        base.load_state_dict(load_file(os.path.join(folder, _PROJECTION)), strict=False)
    base.requires_grad_(False)
    base.to(device)
    prepare_encoding(base.encoder, device)
    return base.train(False), description


def _require_whole(folder: str, description: Mapping[str, Any], location: str) -> None:
    """Check the files of a base against its description.

    Args:
        folder: where they are read from.
        location: where the base is.

    Raises:
        DamagedError: a file is missing or another one.
    """
    advice = "Remove the folder, and the manifest.json beside it, and run again: it is retrained."
    if _DIGESTS in description:
        require_files(folder, description[_DIGESTS], f"the base {location}", advice)
    elif _weights_fingerprint(folder) != description["fingerprint"]:
        raise DamagedError(
            f"the base {location} is damaged: the hash of its weights is not {description['fingerprint']}, as its "
            f"description says. {advice}"
        )


def _weights_fingerprint(folder: str) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()
