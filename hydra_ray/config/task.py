"""The configuration of a run: one YAML file, checked as a whole before anything starts.

Sections are named after stages. What is computed (every section but `storage` and `placement`) is part of the stages'
fingerprints; where it is computed is not. A dotted override such as `drafts.num_samples=4` works the same on the
command line, in `ray job submit` and in a sweep.
"""

import difflib
import json
import math
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from hydra_ray.errors import ConfigError, InputError
from hydra_ray.shipped import find_configuration

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=200)]
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
LabelKey = Annotated[str, StringConstraints(pattern=rf"^([a-zA-Z0-9.-]{{1,253}}/)?{_LABEL}$")]
LabelSelector = Annotated[str, StringConstraints(pattern=rf"^!?({_LABEL}|in\({_LABEL}(, ?{_LABEL})*\))$")]
ResourceName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Section = TypeVar("_Section", bound=Section)


class Sentences(Section):
    """The words of a task's prompts in LaMP's sentence form (Salemi et al., 2024): records, then the query, in one
    message. Names in braces are filled in."""

    record: str = '"{output}" is the answer to "{input}"'
    """A record: its `{output}`, and mostly its `{input}`."""
    records: str = "{records}. "
    """What the records' sentences become, joined by ", and "; left out where there is no record."""
    query: str = "{records}{instruction} {input}"
    """The whole message: `{records}` as above, the `{instruction}`, the bare `{input}`, or instead of this the
    `{first_line}` and the `{other_lines}` of it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_template("record", self.record, required={"output"}, optional={"input"})
        _check_template("records", self.records, required={"records"}, optional=set())
        parts = {"input"} if "{input}" in self.query else {"first_line", "other_lines"}
        _check_template("query", self.query, required={"records", *parts}, optional={"instruction"})
        return self


def _check_template(name: str, template: str, required: set[str], optional: set[str]) -> None:
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{name} is no template: {error}; write braces that stand for themselves twice") from error
    names = {field for field, _, _ in parts}
    if not required <= names <= required | optional or any(spec or conversion for _, spec, conversion in parts):
        expected = ", ".join(f"{{{each}}}" for each in sorted(required))
        raise ValueError(f"{name} is {template!r}; it needs {expected} and may have {sorted(optional)}, nothing else")


class Task(Section):
    """What the generator is asked to do, and how its answers are judged."""

    name: Name
    """Name of the task in reports."""
    official_name: str = ""
    """Value of "task" in LaMP's outputs and prediction files; the name where it is empty."""
    kind: Literal["classification", "rating", "text"]
    """classification: one of `labels`, judged by equality. rating: one of `labels`, which are numbers, judged by
    distance. text: free text, judged by ROUGE."""
    instruction: str
    """The question put to the generator before every bare input."""
    input_pattern: str = r"(?P<input>.+)"
    """Regular expression (with DOTALL) that an official sample's `input` must match as a whole. Its groups whose names
    start with `input` are the bare input, one a line where there are several. What does not match is rejected."""
    labels: tuple[str, ...] = ()
    """All possible outputs of a closed task, in a fixed order; empty for text."""
    option_pattern: str = ""
    """Where each query has options of its own, for which the labels stand: regular expression (with DOTALL) that finds
    them in a bare input, one group a label, in the labels' order. Empty where labels speak for themselves."""
    record_input: tuple[str, ...] = ("text",)
    """Fields of a LaMP history record that together are its input; none where a record has an output only."""
    record_output: str = "output"
    """Field of a LaMP history record that is its output."""
    is_history_labelled: bool = True
    """Whether a record's output answers its input as a target answers a query. Where not, records are documents of the
    user: their outputs need be no labels, and prompts show them as what they are."""
    history_heading: str = "By this user:"
    """What stands before the user's documents in a chat prompt where `is_history_labelled` is false."""
    sentences: Sentences = Sentences()
    """The words of the prompts in LaMP's sentence form."""
    max_tokens: int = Field(default=32, gt=0)
    """Length limit of an answer in the generator's tokens; must cover the longest label."""

    @property
    def is_closed(self) -> bool:
        """Whether the answer is one of a fixed set of labels."""
        return self.kind != "text"

    @property
    def prediction_name(self) -> str:
        """Value of "task" in prediction files."""
        return self.official_name or self.name

    @property
    def has_labelled_records(self) -> bool:
        """Whether history records show which label goes with which text."""
        return self.is_closed and self.is_history_labelled and bool(self.record_input)

    @property
    def has_pseudo_queries(self) -> bool:
        """Whether a record can be asked as a query: its output is an answer, and it has an input to ask."""
        return self.is_history_labelled and bool(self.record_input)

    def bare_input(self, text: str) -> str | None:
        """The query in an official sample's `input`, without the instruction; None where it does not match."""
        match = re.fullmatch(self.input_pattern, text, flags=re.DOTALL)
        if match is None:
            return None
        parts = [(part or "").strip() for name, part in match.groupdict().items() if name.startswith("input")]
        if len(parts) > 1:
            parts = [" ".join(part.split()) for part in parts]
        return "\n".join(parts) if all(parts) else None

    def option_text(self, query_input: str, label: str) -> str:
        """The text that `label` stands for in a query: the label itself, or the option that bears it.

        Raises:
            InputError: the task has options, and the query has none.
        """
        if not self.option_pattern:
            return label
        match = re.search(self.option_pattern, query_input, flags=re.DOTALL)
        if match is None:
            raise InputError(
                f"got a query of {self.name} with {len(query_input)} characters and no options; expected them as in "
                f"lamp.task.option_pattern, {self.option_pattern!r}"
            )
        return match[1 + self.labels.index(label)].strip()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_closed != bool(self.labels):
            raise ValueError("labels are needed for kinds classification and rating, and only there")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        if self.kind == "rating":
            for label in self.labels:
                float(label)
        if not any(name.startswith("input") for name in _compiled("input_pattern", self.input_pattern).groupindex):
            raise ValueError("input_pattern needs a group named 'input'")
        if self.option_pattern and _compiled("option_pattern", self.option_pattern).groups != len(self.labels):
            raise ValueError(f"option_pattern needs one group for each of the {len(self.labels)} labels")
        return self


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name} is no regular expression: {error}") from error


class PlantedConfig(Section):
    """Size of a planted-preference sample: seeded users whose hidden preferences are known."""

    num_train_users: int = Field(default=24, gt=0)
    """Users whose targets may be learned from."""
    num_new_users: int = Field(default=12, gt=0)
    """Users who are evaluated, and of whom only the history may be learned from."""
    num_records: int = Field(default=24, gt=1)
    """History records a user."""
    seed: int = 0


_NAMED, _DESCRIBED = "<named>", "<described>"
"""Tags of the two ways to give a task, by which an error is told of the one that was taken."""


class LampConfig(Section):
    """Where the users come from: exactly one of `root`, `users_files` and `planted`."""

    task: Annotated[
        Annotated[str, Tag(_NAMED)] | Annotated[Task, Tag(_DESCRIBED)],
        Discriminator(lambda given: _DESCRIBED if isinstance(given, Mapping | Task) else _NAMED),
    ]
    """Name of a built-in task, or a task's full description."""
    root: str | None = None
    """Folder of official LaMP files, `<split>_questions.json` and `<split>_outputs.json`."""
    train_split: str | None = "train"
    """Split whose users train the bases; null where another run taught (`taught_by`)."""
    new_split: str = "dev"
    """Split whose users are new: heads are fitted on their history, and their queries are evaluated."""
    users_files: tuple[str, ...] = ()
    """Files of your own users, .jsonl or .parquet, one row a user (see README, "On your data")."""
    planted: PlantedConfig | None = None
    """Make a planted-preference sample instead of reading files."""
    drop_leaks: bool = False
    """Leave out users whose history gives a query's target away: for a text task, a record whose output is the target;
    for a closed task, a record whose input is the query's. Case and white space do not count. Such users are counted
    in any case."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum((self.root is not None, bool(self.users_files), self.planted is not None)) != 1:
            raise ValueError("set exactly one of root, users_files and planted")
        return self


class UsersConfig(Section):
    """Stage 1: raw files to bucketed users."""

    num_buckets: int = Field(default=4, gt=0)
    """Parts of every table. A part is the unit of work, of commit and of resumption: enough parts to keep all workers
    busy, each large enough to keep a generator busy (a few hundred requests)."""
    bucket_key: str | None = Field(default=None, min_length=1, max_length=64)
    """Key of the hash that assigns users to buckets. Where it is left out, a secret of the storage root's own. Where it
    is set, runs under all roots divide the same users alike, and so come to the very same figures."""
    max_rejected_fraction: float = Field(default=0.1, ge=0, le=1)
    """Stop when a larger share of the samples is malformed."""
    max_users: int | None = Field(default=None, gt=0)
    """Read at most this many samples of each split; for trying things out."""
    num_folds: int = Field(default=1, gt=0)
    """More than 1 cross-fits: the users of both splits are divided into so many folds, and everyone is new in one fold
    and teaches in the others. What the generator answers is shared by all folds."""
    fold_seed: int = 0
    leaves_out_forgotten: bool = False
    """Forgotten users are never taken in again. With this, what was learned from them is learned anew without them:
    who was forgotten becomes part of what names the stages."""


class RetrieveConfig(Section):
    """How a user's records are ranked for a query."""

    method: Literal["bm25", "dense", "recency", "random", "hybrid"] = "bm25"
    """bm25: by common words. dense: by the cosine of the encoder's vectors. recency: newest first. random: any order.
    hybrid: reciprocal rank fusion of bm25 and dense."""
    k1: float = Field(default=1.5, ge=0)
    """BM25's term-frequency saturation."""
    b: float = Field(default=0.75, ge=0, le=1)
    """BM25's length normalization."""
    epsilon: float = Field(default=0.25, ge=0)
    """Floor for negative inverse document frequencies, as a share of their mean."""
    encoder: str | None = None
    """Text encoder of dense and hybrid, named as `generator.model` is."""
    max_text_tokens: int = Field(default=128, gt=0)
    """Longest text given to the encoder, in its tokens; longer ones are cut."""
    rrf_constant: float = Field(default=60, gt=0)
    """hybrid: a record at rank r of a method counts 1 / (rrf_constant + r)."""
    seed: int = 0
    """Seed of random."""

    @property
    def needs_encoder(self) -> bool:
        """Whether the method compares vectors."""
        return self.method in ("dense", "hybrid")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.needs_encoder and self.encoder is None:
            raise ValueError(f"method {self.method} needs an encoder; set retrieve.encoder")
        return self


class ApiConfig(Section):
    """The endpoint that answers where `generator.engine` is openai: `POST <base_url>/chat/completions`."""

    base_url: str
    """URL up to and without `/chat/completions`, such as `https://api.openai.com/v1`; it holds no credentials."""
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    model_version: str = ""
    """Names the endpoint's answers together with `model`. Change it when the endpoint serves other weights under the
    same name: answers that were kept are then not found again."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    """Name of the environment variable that holds the key, on the machines where copies of the generator run; null for
    an endpoint that wants none."""
    has_structured_outputs: bool = False
    """Whether the endpoint takes vLLM's `structured_outputs`, so that `generator.is_constrained` can be held."""
    has_log_probabilities: bool = True
    """Whether the endpoint tells log-probabilities; where not, they are not asked for, and features of them are 0."""
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the length limit of an answer."""
    max_samples_per_call: int | None = Field(default=None, gt=0)
    """Samples that one call may ask for. Null: all samples of a request, so that its prompt is paid once. 1 for
    endpoints that know no `n`."""
    max_concurrent_requests: int = Field(default=16, gt=0)
    """Calls under way at the same time, of all copies of the generator in the cluster together."""
    requests_per_minute: int | None = Field(default=None, gt=0)
    """Calls in any 60 seconds, of the whole cluster; null sets no limit."""
    tokens_per_minute: int | None = Field(default=None, gt=0)
    """Tokens of prompts and answers in any 60 seconds, of the whole cluster; null sets no limit. A call counts as many
    as it may take until it is answered, then those that it took."""
    attempt_timeout_seconds: float = Field(default=60, gt=0)
    """Longest wait for one call."""
    max_attempts: int = Field(default=8, gt=0)
    """Calls of one request until it fails: after 408, 409, 429 and 5xx, time-outs, broken connections and answers that
    cannot be read."""
    max_backoff_seconds: float = Field(default=30, gt=0)
    """Longest pause before the next attempt where the endpoint names none; pauses are random, below a bound that
    doubles from half a second on."""
    request_deadline_seconds: float = Field(default=600, gt=0)
    """From a request's first call to the end of its last one, pauses included; then the request fails."""
    breaker_failures: int = Field(default=4, gt=0)
    """The endpoint is suspected rather than single requests when calls of so many different ones failed in a row. While
    it is, no request is given up."""
    breaker_seconds: float = Field(default=180, gt=0)
    """A suspected endpoint of which no call was answered for so many seconds is dead, and stops the run. An answer that
    asks to slow down (429) is a sign of life."""
    prompt_price: float = Field(default=0, ge=0)
    """Price of a million prompt tokens, in any currency."""
    generated_price: float = Field(default=0, ge=0)
    """Price of a million generated tokens."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            url = urlsplit(self.base_url)
            is_right = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
            (url.hostname or "").encode("idna")
        except ValueError:  # of which a part may be a password: it is not told
            raise ValueError(
                "base_url must be an http:// or https:// URL, whose host is a name or an address and whose port, if it "
                "has one, is a number from 1 to 65535"
            ) from None
        if not is_right:
            raise ValueError("base_url must be an http:// or https:// URL")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("base_url must hold no credentials and no query: keys come from api_key_env's variable")
        if math.ceil(self.breaker_failures / self.max_concurrent_requests) * self.attempt_timeout_seconds > (
            self.breaker_seconds
        ):
            raise ValueError(
                "breaker_seconds must leave time for breaker_failures calls, max_concurrent_requests at a time, to run "
                "into attempt_timeout_seconds: an endpoint that never answers could else not be told in time"
            )
        if self.attempt_timeout_seconds > self.request_deadline_seconds:
            raise ValueError("attempt_timeout_seconds must not exceed request_deadline_seconds")
        return self


class GeneratorConfig(Section):
    """The frozen, black-box LLM."""

    engine: Literal["vllm", "openai", "fake"] = "vllm"
    """vllm loads the model into Ray actors. openai asks an OpenAI-compatible endpoint, see `api`. fake answers by a
    fixed rule and is for tests of everything around it."""
    model: str
    """An absolute Hugging Face folder, s3://bucket/folder, a name of the Hugging Face hub (org/name or
    org/name@revision), or `package:NAME` for a model carried by an installed Python package; see docs/models.md. With
    engine openai, the model whose tokenizer fits prompts to `max_model_tokens`: best the one that the endpoint
    serves."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_model_tokens: int = Field(default=2048, gt=0)
    """Longest prompt plus answer, in tokens."""
    max_text_tokens: int = Field(default=256, gt=0)
    """Longest single record or query in a prompt, in tokens; longer ones are cut."""
    is_constrained: bool = True
    """Let the generator write nothing but the labels of a closed task."""
    prompt_form: Literal["chat", "sentence"] = "chat"
    """chat: records are turns of a conversation. sentence: LaMP's own form, records and query in one message."""
    seed: int = 0
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of a stage's answers that may fail or be unusable; with more the run stops. Changes no answer."""
    api: ApiConfig | None = None
    """The endpoint; needed where `engine` is openai, and only there."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.engine == "openai") != (self.api is not None):
            raise ValueError("engine openai needs the section generator.api, and no other engine has it")
        return self


class ProbesConfig(Section):
    """Stage 2: what one record as the example does to the generator's answer."""

    num_records: int = Field(default=10, gt=0)
    """N: records retrieved for a query."""
    num_pseudo_queries: int = Field(default=10, gt=0)
    """M: history records of a user that serve as queries whose target is known."""
    seed: int = 0
    """Seed of the choice of pseudo-queries."""


class BaseConfig(Section):
    """A scorer's shared base, an encoder with a projection."""

    encoder: str
    """A text encoder, named as `generator.model` is."""
    width: int = Field(default=32, ge=0)
    """Learned features a candidate; 0 leaves the encoder's out, and only plain features count."""
    max_text_tokens: int = Field(default=96, gt=0)
    """Longest text (or pair of texts) given to the encoder, in its tokens."""
    trainable_layers: int = Field(default=1, ge=0)
    """Upper layers of the encoder that are trained; the rest, and the embeddings, stay as they are."""
    num_epochs: int = Field(default=2, ge=0)
    """Passes over the training users' groups; 0 leaves the base untrained."""
    batch_groups: int = Field(default=16, gt=0)
    """Groups in a step, over all workers."""
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    holdout_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Share of the training users whose loss chooses the epoch; 0 keeps the last."""
    loss: Literal["query", "pointwise"] = "query"
    """query: the candidates of a query compete (softmax). pointwise: each is judged alone (logistic), as published."""
    seed: int = 0


class HeadsConfig(Section):
    """A scorer's heads; each listed kind and rank is fitted, and held-out history chooses one for each user.

    The shared head is always fitted: it is the baseline that the others must beat. So are, where histories are known,
    shared heads that are routed by them; where these help, lowrank heads deviate from them and not from the shared one.
    """

    kinds: tuple[Literal["shared", "lowrank", "paper"], ...] = ("shared", "lowrank")
    """shared: nothing of the user's own. lowrank: a Gaussian deviation in a learned basis, its variance estimated
    from the training users. paper: the per-user two-layer network of the publication."""
    ranks: tuple[int, ...] = (16,)
    """Widths R of the basis of lowrank heads; one configuration each."""
    num_folds: int = Field(default=5, gt=1)
    """Parts of a user's history that are held out in turn."""
    num_shards: int = Field(default=1, gt=0)
    """Shards of buckets; a trial fits all users of one shard with one configuration."""
    max_prior_users: int = Field(default=2000, gt=0)
    """Training users (a seeded sample) from whom the shared head, the basis and the prior are estimated."""
    paper_width: int = Field(default=16, gt=0)
    """Hidden units of a paper head."""
    paper_epochs: int = Field(default=50, gt=0)
    """Full-batch steps of a paper head."""
    paper_start: Literal["shared", "random"] = "shared"
    """What a paper head starts from: a network fitted to all training users, or a random one, as published."""
    paper_loss: Literal["query", "pointwise"] = "query"
    """query: the candidates of a query compete. pointwise: each is judged alone, as published."""
    paper_learning_rate: float = Field(default=1e-2, gt=0)
    prior_scale: float = Field(default=1, gt=0)
    """Factor on the prior variances of lowrank heads; 1 leaves them as they were estimated."""
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kinds:
            raise ValueError("kinds must not be empty")
        if "lowrank" in self.kinds and not self.ranks:
            raise ValueError("ranks must not be empty where kinds contains lowrank")
        return self


class ScorerConfig(Section):
    """Stages 3 and 5: a base and its heads."""

    base: BaseConfig
    heads: HeadsConfig = HeadsConfig()
    has_plain_features: bool = True
    """Whether a candidate has the named plain features beside the base's; the publication has none."""


class AdapterConfig(ScorerConfig):
    """Stage 5."""

    has_own_labels: bool = True
    """Whether, where records show labels, one plain feature is what they say of a label: a score of its own, fitted to
    all users' records. Without it, what a user prefers is left to the heads."""


class PoolConfig(Section):
    """What the adapter chooses among, of all that was generated: the generator is asked nothing for it."""

    candidates: Literal["all", "drafts"] = "all"
    """What the adapter chooses among in a closed task: all labels, or only those that the drafts gave. In text tasks it
    is always the drafts."""
    num_probes: int = Field(default=4, ge=0)
    """How many of the retriever's best records have their probe's answer among the drafts."""
    has_cuts: bool = True
    """Text tasks: offer each draft that runs on also cut short: its first clause, and as many words as are usual."""


class DraftsConfig(PoolConfig):
    """Stage 4: several drafts for each query."""

    num_records: int = Field(default=4, gt=0)
    """k: records in a prompt."""
    prompts: tuple[Literal["zero_shot", "random_k", "rag_1", "rag_2", "rag_k", "lead_k", "reranked"], ...] = (
        "zero_shot",
        "rag_1",
        "rag_2",
        "rag_k",
        "reranked",
    )
    """Prompts whose greedy answers are drafts: without records; with random ones; with the retriever's best 1, 2 or k;
    with the k that the reranker chooses; lead_k: with the first words only of the retriever's k and of the query."""
    lead_words: int = Field(default=30, gt=0)
    """Words of a lead_k prompt's texts: a small generator writes better titles of a text's beginning alone."""
    sampled_prompts: tuple[Literal["rag_k", "lead_k", "reranked"], ...] = ("rag_k",)
    """Prompts whose samples are drafts. The retriever's is sampled for evaluated queries in any case: the vote of its
    samples is a baseline."""
    num_samples: int = Field(default=8, gt=0)
    """b: samples at each temperature."""
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0,), min_length=1)
    """Temperatures of the samples."""
    num_pseudo_queries: int = Field(default=10, gt=0)
    """Pseudo-queries of a user that feed the adapter; the first ones of those that were probed."""


class AnswersConfig(Section):
    """Stage 6: one answer a query."""

    is_gated: bool = True
    """Let each user's expected quality choose among zero-shot, RAG, shared and own heads; else own heads answer."""


class ReportConfig(Section):
    """Stage 7: metrics, intervals and the page."""

    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the intervals."""
    num_resamples: int = Field(default=2000, gt=0)
    """Bootstrap resamples of users."""
    seed: int = 0


_NO_LOCATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(/|$)(?!/[^/])")
"""Begins like a URI, but names no bucket after two slashes."""


class StorageConfig(Section):
    """Where everything that lasts is kept."""

    root: str
    """Absolute folder or s3://bucket/folder. Stages of all runs under one root are shared by content."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/@?#]+$")
    """URL of the S3 store that every s3:// location is in, such as http://minio:9000; where not given, what
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL says, or else AWS."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Of the S3 store; where not given, what AWS_REGION or AWS_DEFAULT_REGION says, or else the bucket's."""

    @field_validator("root")
    @classmethod
    def _check_root(cls, root: str) -> str:
        """Neither may a slip in a URI become a folder of that name, nor nothing the working directory."""
        if not root.strip() or _NO_LOCATION.match(root):
            raise ValueError(f"got {root!r}, expected an absolute folder or s3://bucket/folder")
        return root


class BudgetConfig(Section):
    """What a run may cost before it stops; never changes a result. See `hydra-ray plan` for what it will cost."""

    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens of prompts and answers that may be asked for the run's stages, whichever run asks; what was answered
    before they were made is not counted."""
    max_cost: float | None = Field(default=None, gt=0)
    """What these tokens and the generators' hours may cost, in the currency of the prices."""
    hour_price: float = Field(default=0, ge=0)
    """Price of an hour of one GPU that a copy of the generator holds; of one CPU where it holds no GPU. What an
    endpoint costs is told by `generator.api`."""


class PlacementConfig(Section):
    """Where the work runs; never changes a result."""

    generator_actors: int = Field(default=1, gt=0)
    """Copies of the generator."""
    generator_cpus: float = Field(default=1, ge=0)
    """Ray CPUs a copy reserves."""
    generator_gpus: float = Field(default=0, ge=0)
    """Ray GPUs a copy reserves; more than 1 are used as tensor parallel ranks."""
    generator_threads: int = Field(default=2, gt=0)
    """OpenMP threads a copy uses on CPU."""
    generator_kv_cache_gigabytes: int = Field(default=1, gt=0)
    """Key-value cache a copy reserves on CPU."""
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory that a copy takes."""
    max_concurrent_sequences: int = Field(default=64, gt=0)
    """Sequences a copy decodes at the same time."""
    encoder_actors: int = Field(default=1, gt=0)
    """Copies of the encoder and of the trained bases, where they read texts for very many users."""
    encoder_threads: int = Field(default=2, gt=0)
    """OpenMP threads that a copy uses."""
    train_workers: int = Field(default=1, gt=0)
    """Workers that train a base."""
    train_gpus_per_worker: float = Field(default=0, ge=0)
    """0 trains on CPU with gloo, more with NCCL."""
    train_threads: int = Field(default=2, gt=0)
    """OpenMP threads of all training workers together on CPU."""
    zero_stage: int = Field(default=1, ge=0, le=2)
    """DeepSpeed's ZeRO stage; 0 trains with torch alone, and so does 1 where DeepSpeed is not installed."""
    max_concurrent_trials: int = Field(default=2, gt=0)
    """Tune trials at the same time."""
    generator_labels: dict[LabelKey, LabelSelector] = {}
    """Nodes on which copies of the generator may run, by their labels: a value, `in(a, b)`, or with `!` before it what
    the label must not be. As `{ray.io/market-type: spot}`."""
    generator_resources: dict[ResourceName, PositiveFloat] = {}
    """Custom Ray resources that a copy reserves."""
    train_labels: dict[LabelKey, LabelSelector] = {}
    """As `generator_labels`, of the workers that train a base."""
    train_resources: dict[ResourceName, PositiveFloat] = {}
    """Custom Ray resources that each worker reserves."""
    step_labels: dict[LabelKey, LabelSelector] = {}
    """As `generator_labels`, of everything else: steps on one part, encoding, fitting heads."""
    step_resources: dict[ResourceName, PositiveFloat] = {}
    """Custom Ray resources that each of these reserves."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.generator_gpus > 1 and self.generator_gpus % 1:
            raise ValueError("generator_gpus above 1 are tensor parallel ranks: a whole number")
        custom = {*self.generator_resources, *self.train_resources, *self.step_resources}
        if known := custom & {"CPU", "GPU", "memory"}:
            raise ValueError(f"{', '.join(sorted(known))} are no custom resources: use generator_cpus and the like")
        return self


class RunConfig(Section):
    """One run: the whole path for one task."""

    run: RunName
    """Name of the run; the folder of its report and answers below storage.root/runs."""
    taught_by: RunName | None = None
    """Name of a finished run under the same root whose bases, shared heads, labeller and gate are used as they are (of
    a cross-fitted one those of fold 0); all users are then new. Null: the run's own training users teach."""
    storage: StorageConfig
    lamp: LampConfig
    users: UsersConfig = UsersConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    generator: GeneratorConfig
    probes: ProbesConfig = ProbesConfig()
    reranker: ScorerConfig
    drafts: DraftsConfig = DraftsConfig()
    adapter: AdapterConfig
    answers: AnswersConfig = AnswersConfig()
    report: ReportConfig = ReportConfig()
    budget: BudgetConfig = BudgetConfig()
    placement: PlacementConfig = PlacementConfig()

    @property
    def named_models(self) -> list[str]:
        """Every model that the run names, each once."""
        named = [self.generator.model, self.retrieve.encoder, self.reranker.base.encoder, self.adapter.base.encoder]
        return list(dict.fromkeys(each for each in named if each is not None))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.taught_by is not None and (self.taught_by == self.run or self.users.num_folds > 1):
            raise ValueError("taught_by names another run, and its users are new: users.num_folds must be 1")
        if self.drafts.num_records > self.probes.num_records:
            raise ValueError("drafts.num_records (k) must not exceed probes.num_records (N)")
        if self.answers.is_gated and not {"zero_shot", "rag_k"} <= set(self.drafts.prompts):
            raise ValueError(
                "answers.is_gated needs zero_shot and rag_k among drafts.prompts: the gate chooses among them"
            )
        if self.drafts.num_pseudo_queries > self.probes.num_pseudo_queries:
            raise ValueError("drafts.num_pseudo_queries must not exceed probes.num_pseudo_queries (M)")
        return self


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration in the YAML file at `path`, changed by dotted `overrides`.

    Args:
        path: a file, or the name of a shipped configuration.
        overrides: each `section.key=value`, the value in YAML.

    Raises:
        ConfigError: the file cannot be read, an override has no such form, or a setting is wrong.
    """
    settings = read_settings(path)
    for override in overrides:
        settings = apply_override(settings, override)
    return check_config(settings, source=str(path))


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in the YAML file at `path`, not checked yet.

    Args:
        path: a file, or the name of a shipped configuration.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    file = find_configuration(path)
    try:
        loaded = _yaml_value(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must be a mapping of sections, got {type(loaded).__name__}")
    return cast(dict[str, Any], loaded)


class _ConfigurationLoader(yaml.SafeLoader):
    """YAML's safe loader, in which a date is the text that was written.

    No setting is a date, and a run may be named by one. PyYAML's own loader depends on what else the process imported:
    lm-format-enforcer, which vLLM imports, changes how `SafeLoader` reads dates.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _yaml_value(text: str) -> Any:
    """Return the value that `text` is in YAML.

    Raises:
        ValueError: it is none, or one that cannot be made, such as a tagged number that has no digits.
    """
    try:
        return yaml.load(text, Loader=_ConfigurationLoader)
    # What PyYAML's constructors raise where a tag and its value do not fit is not a YAMLError.
    except (yaml.YAMLError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_config(settings: Mapping[str, Any], source: str) -> RunConfig:
    """`settings` as the checked configuration of a run.

    Raises:
        ConfigError: naming every wrong setting and `source`.
    """
    return check_settings(RunConfig, settings, source)


def check_settings(section: type[_Section], settings: Mapping[str, Any], source: str) -> _Section:
    """`settings` as a checked section.

    Raises:
        ConfigError: naming every wrong setting and `source`.
    """
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, _place(each['loc']))) or '(whole)'}: {_what_is_wrong(section, each)}"
            for each in error.errors()
        ]
        raise ConfigError(f"{source} is not a valid configuration:\n" + "\n".join(lines)) from error


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the keys that lead to a setting, without the tags of a choice."""
    return tuple(part for part in location if part not in (_NAMED, _DESCRIBED))


def _what_is_wrong(section: type[BaseModel], error: "ErrorDetails") -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(section, _place(error["loc"]))
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        value = json.dumps(error["input"])
        return f"got {value}, expected text; YAML reads words such as yes, no and on, and numbers, as no text: quote it"
    return error["msg"].removeprefix("Value error, ")


def _unknown(section: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """What to do about a setting that the section at `place`, seen from `section`, does not have."""
    *above, name = place
    for part in above:
        inner = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        found = [each for each in (inner, *get_args(inner)) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not found:
            return "there is no such setting"
        section = found[0]
    close = difflib.get_close_matches(str(name), section.model_fields, n=1)
    if close:
        return f"there is no such setting; did you mean {'.'.join(map(str, [*above, close[0]]))}?"
    return f"there is no such setting, only {', '.join(section.model_fields)}"


def apply_override(settings: Mapping[str, Any], override: str) -> dict[str, Any]:
    """A copy of `settings` in which the dotted key of `override` has its value.

    Raises:
        ConfigError: `override` is not of the form `section.key=value`, or goes through something that has no keys.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"the override {override!r} is not of the form section.key=value")
    try:
        value = _yaml_value(text)
    except ValueError as error:
        raise ConfigError(f"the value of the override {override!r} is not YAML: {error}") from error
    return apply_setting(settings, key, value)


def apply_setting(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `settings` in which the dotted `key` has `value`.

    Raises:
        ConfigError: the key goes through something that has no keys.
    """
    head, _, rest = key.partition(".")
    if not rest:
        return {**settings, head: value}
    inner: Any = settings.get(head) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"the setting {key!r} goes through {head!r}, which is {inner!r} and has no keys")
    return {**settings, head: apply_setting(cast(Mapping[str, Any], inner), rest, value)}
