"""The section `generator`: the black-box LLM, loaded by vLLM or asked at an OpenAI-compatible endpoint."""

import math
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from hydra_ray.config.batch import BatchConfig
from hydra_ray.config.section import Section


class ApiConfig(Section):
    """Endpoint that answers where `generator.engine` is openai, by `POST <base_url>/chat/completions`, or
    openai_batch."""

    base_url: str
    """URL up to and without `/chat/completions`, such as `https://api.openai.com/v1`: http or https, with no
    credentials, query or fragment."""
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    model_version: str = ""
    """Version that names the endpoint's answers together with `model`. Change it when the endpoint serves other
    weights under the same name: answers that were kept are then not found again."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    """Name of the environment variable that holds the key, on the machines where copies of the generator run. Null for
    an endpoint that wants no key."""
    has_structured_outputs: bool = False
    """Whether the endpoint takes vLLM's `structured_outputs`, which `generator.is_constrained` needs."""
    has_log_probabilities: bool = True
    """Whether the endpoint returns log-probabilities. Where not, they are not asked for, and features made of them are
    0."""
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the endpoint's parameter for the largest number of generated tokens."""
    max_samples_per_call: int | None = Field(default=None, gt=0)
    """Largest number of samples that one call asks for. Null asks for all samples of a request at once, so that its
    prompt is paid once; 1 is for endpoints that know no `n`."""
    max_concurrent_requests: int = Field(default=16, gt=0)
    """Largest number of calls at the same time, of all copies of the generator in the cluster together."""
    requests_per_minute: int | None = Field(default=None, gt=0)
    """Largest number of calls in any 60 seconds, of the whole cluster; null sets no limit."""
    tokens_per_minute: int | None = Field(default=None, gt=0)
    """Largest number of prompt and generated tokens in any 60 seconds, of the whole cluster; null sets no limit. Until
    it is answered, a call counts as many as it may take; afterwards, those that it took."""
    attempt_timeout_seconds: float = Field(default=60, gt=0)
    """Longest wait for one call, in seconds; at most `request_deadline_seconds`."""
    max_attempts: int = Field(default=8, gt=0)
    """Largest number of calls for one request before it fails. A call is repeated after 408, 409, 429 and 5xx,
    time-outs, broken connections and answers that cannot be read."""
    max_backoff_seconds: float = Field(default=30, gt=0)
    """Longest pause before the next attempt, in seconds, where the endpoint names none. Pauses are random, below a
    bound that doubles from half a second on."""
    request_deadline_seconds: float = Field(default=600, gt=0)
    """Longest time from the first call of a request to the end of its last one, in seconds, pauses included; then the
    request fails."""
    breaker_failures: int = Field(default=4, gt=0)
    """Number of different requests whose calls fail in a row until the endpoint itself is suspected. While it is, no
    request is given up."""
    breaker_seconds: float = Field(default=180, gt=0)
    """Time without an answered call, in seconds, after which a suspected endpoint is dead and stops the run. An answer
    that asks to slow down (429) is a sign of life. At least ceil(breaker_failures / max_concurrent_requests) *
    attempt_timeout_seconds, so that an endpoint that never answers is recognized."""
    prompt_price: float = Field(default=0, ge=0)
    """Price of a million prompt tokens, in any currency."""
    generated_price: float = Field(default=0, ge=0)
    """Price of a million generated tokens, in the same currency."""

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
    """Generator: the frozen, black-box LLM."""

    engine: Literal["vllm", "openai", "openai_batch", "fake"] = "vllm"
    """Engine that generates. vllm: the model, loaded into Ray actors. openai: an OpenAI-compatible endpoint, as `api`
    says. openai_batch: the same endpoint, asked in batches that take up to a day a stage and cost less (see
    docs/batches.md). fake: a fixed rule, to test everything around the generator."""
    model: str
    """Model: an absolute Hugging Face folder, s3://bucket/folder, a name of the Hugging Face hub (org/name or
    org/name@revision), or `package:NAME` for one that an installed Python package carries; see docs/models.md. With
    the engines openai and openai_batch, the model whose tokenizer fits prompts to `max_model_tokens`: best the one
    that the endpoint serves."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Floating-point type of weights and activations."""
    max_model_tokens: int = Field(default=2048, gt=0)
    """Largest number of tokens of a prompt and its answer together."""
    max_text_tokens: int = Field(default=256, gt=0)
    """Length, in the generator's tokens, to which each record and query in a prompt is cut."""
    is_constrained: bool = True
    """Whether decoding is constrained to the labels in a closed task."""
    prompt_form: Literal["chat", "sentence"] = "chat"
    """Form of prompts. chat: records are turns of a conversation. sentence: LaMP's own form, records and query in one
    message."""
    seed: int = 0
    """Seed of sampling."""
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    """Largest share of a stage's answers that may fail or be unusable; with more the run stops. Changes no answer."""
    api: ApiConfig | None = None
    """Endpoint; needed where `engine` is openai or openai_batch, and not allowed elsewhere."""
    batch: BatchConfig = BatchConfig()
    """Batches, where `engine` is openai_batch."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.engine in ("openai", "openai_batch")) != (self.api is not None):
            raise ValueError(
                "engine openai, and openai_batch, need the section generator.api, and no other engine has it"
            )
        return self
