"""The sections `retrieve` and `probes`: which records of a user are put before the generator, and for which queries."""

from typing import Literal, Self

from pydantic import Field, model_validator

from hydra_ray.config.section import Plugin, Section, is_plugin


class RetrieveConfig(Section):
    """Retrieval: how the records of a user are ranked for a query."""

    method: Plugin | Literal["bm25", "dense", "recency", "random", "hybrid"] = "bm25"
    """Ranking method. bm25: Okapi BM25 over words. dense: cosine similarity of the encoder's vectors. recency: newest
    first. random: seeded random order. hybrid: reciprocal rank fusion of bm25 and dense. module:name: a function of
    yours (see docs/plugins.md)."""
    k1: float = Field(default=1.5, ge=0)
    """Term-frequency saturation of BM25."""
    b: float = Field(default=0.75, ge=0, le=1)
    """Length normalization of BM25: 0 ignores the length of a record, 1 normalizes by it fully."""
    epsilon: float = Field(default=0.25, ge=0)
    """Floor of BM25 for inverse document frequencies below 0, as a share of the mean inverse document frequency."""
    encoder: str | None = None
    """Text encoder of the methods dense and hybrid, which need one, and of a function of yours, which may; named as
    `generator.model` is."""
    max_text_tokens: int = Field(default=128, gt=0)
    """Length, in the encoder's tokens, to which texts are cut before they are encoded."""
    rrf_constant: float = Field(default=60, gt=0)
    """Constant c of hybrid's reciprocal rank fusion: a record's score is the sum over both methods of 1 / (c + rank).
    60 is the value of the publication (Cormack et al., 2009)."""
    seed: int = 0
    """Seed of the method random."""

    @property
    def is_plugin(self) -> bool:
        """Whether the method is a function of another package."""
        return is_plugin(self.method)

    @property
    def needs_encoder(self) -> bool:
        """Whether the method compares vectors."""
        return self.method in ("dense", "hybrid") or (self.is_plugin and self.encoder is not None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.needs_encoder and self.encoder is None:
            raise ValueError(f"method {self.method} needs an encoder; set retrieve.encoder")
        return self


class ProbesConfig(Section):
    """Stage `probes`: how much each retrieved record, shown alone as the example, helps the generator's answer."""

    num_records: int = Field(default=10, gt=0)
    """Number N of records retrieved for each query; each is probed."""
    num_pseudo_queries: int = Field(default=10, gt=0)
    """Largest number M of a user's pseudo-queries: history records that are asked as queries with known targets."""
    seed: int = 0
    """Seed of the choice of pseudo-queries."""
