"""The sections `reranker` and `adapter`: two scorers, each with a shared base and heads."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hydra_ray.config.section import Plugin, Section


class BaseConfig(Section):
    """Base of a scorer: a text encoder with a projection, shared by all users."""

    encoder: str
    """Text encoder, named as `generator.model` is."""
    width: int = Field(default=32, ge=0)
    """Number of learned features of a candidate. 0 leaves the encoder out: only handcrafted features count then."""
    max_text_tokens: int = Field(default=96, gt=0)
    """Length, in the encoder's tokens, to which a text or a pair of texts is cut."""
    interaction: Literal["pair", "bilinear"] | None = None
    """Encoding of a candidate. pair: together with the query, as published. bilinear: each alone, which costs much
    less where the same few candidates occur in every group. null: bilinear for the answers of a closed task, pair
    elsewhere."""
    pooling: Literal["mean", "first"] = "mean"
    """Vector of a text: the mean of its tokens' last states, or the first token's state, as published. For the
    latter a Longformer lets the first token attend to all others."""
    trainable_layers: Annotated[int, Field(ge=0)] | Literal["all"] = 1
    """Number of upper layers of the encoder that are trained; the lower ones and the embeddings stay frozen. all: every
    layer and the embeddings."""
    num_epochs: int = Field(default=2, ge=0)
    """Number of passes over the training users' groups (the candidates of one query are a group); 0 leaves the base
    untrained."""
    batch_groups: int = Field(default=16, gt=0)
    """Number of groups in a batch, over all workers."""
    max_epoch_groups: int | None = Field(default=None, gt=0)
    """Largest number of groups in an epoch, those of another random sample of users each time; null takes all."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Learning rate of AdamW."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises to `learning_rate`; over all steps it falls linearly to 0.
    The publication has 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    holdout_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of the training users whose loss chooses the epoch; 0 keeps the last epoch."""
    loss: Literal["query", "pointwise"] = "query"
    """Training loss. query: softmax cross-entropy over the candidates of a query. pointwise: logistic loss of each
    candidate alone, as published."""
    training_heads: Literal["lowrank", "networks"] = "lowrank"
    """Heads of the training users while the base is trained. lowrank: a shared head and a low-rank deviation for each
    user. networks: as published, a two-layer network for each user from a random start, with as many hidden units as
    features, at the base's learning rate. Held-out users would have no network, so `holdout_fraction` must be 0."""
    seed: int = 0
    """Seed of the projection's initial weights, the holdout and the order of batches."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.training_heads == "networks" and self.holdout_fraction:
            raise ValueError(
                "training_heads networks needs holdout_fraction=0: users who are held out would have no network"
            )
        return self


class HeadsConfig(Section):
    """Heads of a scorer: each listed kind and rank is fitted, and held-out history chooses one for each user.

    The shared head is always fitted, as the baseline to beat. Where histories are known, shared heads that are routed
    by them are fitted as well; where these help, lowrank heads deviate from them and not from the shared head.
    """

    kinds: tuple[Literal["shared", "lowrank", "paper"], ...] = ("shared", "lowrank")
    """Kinds of heads, at least one. shared: no parameters of the user's own. lowrank: a deviation B a_u in a learned
    basis B, with a Gaussian prior on the code a_u whose variance is estimated from the training users. paper: the
    two-layer network for each user of the publication, which reads the base's features as they are."""
    ranks: tuple[int, ...] = (16,)
    """Ranks R of the lowrank heads' basis, each fitted as a kind of its own; at least one where `kinds` contains
    lowrank."""
    num_folds: int = Field(default=5, gt=1)
    """Number of folds of a user's history that are held out in turn to choose the head."""
    num_shards: int = Field(default=1, gt=0)
    """Number of shards of buckets. A Ray Tune trial fits all users of one shard with one kind of head."""
    max_prior_users: int = Field(default=2000, gt=0)
    """Largest number of training users, a seeded sample, from whom the shared head, the basis and the prior are
    estimated."""
    paper_width: int = Field(default=16, gt=0)
    """Number of hidden units of a paper head; the publication has as many as features."""
    paper_epochs: int = Field(default=50, gt=0)
    """Number of full-batch steps of a paper head."""
    paper_start: Literal["shared", "random"] = "shared"
    """Initial weights of a paper head: those of a network fitted to all training users, or random ones, as
    published."""
    paper_loss: Literal["query", "pointwise"] = "query"
    """Loss of a paper head. query: softmax cross-entropy over the candidates of a query. pointwise: logistic loss of
    each candidate alone, as published."""
    paper_learning_rate: float = Field(default=1e-2, gt=0)
    """Learning rate of a paper head at its first step; it falls linearly to 0 over `paper_epochs`."""
    prior_scale: float = Field(default=1, gt=0)
    """Factor on the prior variances of lowrank heads; 1 keeps the estimate (empirical Bayes)."""
    seed: int = 0
    """Seed of the folds, the sample of prior users and random initial weights."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kinds:
            raise ValueError("kinds must not be empty")
        if "lowrank" in self.kinds and not self.ranks:
            raise ValueError("ranks must not be empty where kinds contains lowrank")
        return self


class ScorerConfig(Section):
    """Stage `reranker`: the scorer that chooses which records stand in the prompt."""

    base: BaseConfig
    """Base, shared by all users."""
    heads: HeadsConfig = HeadsConfig()
    """Heads, one for each user."""
    labels: Literal["quality", "published"] = "quality"
    """Targets that the scorer learns. quality: a candidate's quality by the task's metric. published: 1 or 0. In closed
    tasks 1 is the right answer. In text tasks it is a record whose probe's ROUGE (mean of ROUGE-1 and ROUGE-L) is above
    the user's mean, or the target itself, which stands among the candidates of queries that are learned from and of no
    other; every draft is 0."""
    has_plain_features: bool = True
    """Whether a candidate has the handcrafted features beside the base's learned ones; the publication has none."""
    plain_features: tuple[Plugin, ...] = ()
    """Handcrafted features of yours that a candidate has besides: functions, each as module:name (see
    docs/plugins.md)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.plain_features and not self.has_plain_features:
            raise ValueError("plain_features are handcrafted features: has_plain_features must leave them on")
        if len(set(self.plain_features)) < len(self.plain_features):
            raise ValueError("plain_features has a function twice")
        return self


class AdapterConfig(ScorerConfig):
    """Stage `adapter`: the scorer that chooses among the drafts."""

    has_own_labels: bool = True
    """Whether, where records show labels, one handcrafted feature is the score that the user's own label model, fitted
    to all users' records, gives a label. Without it, a user's preferences are left to the heads."""
    has_own_heads: bool = True
    """Whether, where records show labels and `has_own_labels`, each user has a head that is fitted to all of the user's
    records, without a request to the generator. They count only in data sets whose histories predict a gain."""

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if self.labels == "published" and self.has_plain_features:
            raise ValueError(
                "labels published needs has_plain_features=false: a target among the candidates has no drafts, from "
                "which handcrafted features are made"
            )
        return self
