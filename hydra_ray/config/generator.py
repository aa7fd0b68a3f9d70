"""The section `generator`: the black-box LLM, loaded by vLLM or asked at an OpenAI-compatible endpoint."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, StringConstraints, model_validator

from hydra_ray.config.batch import BatchConfig
from hydra_ray.config.engine_arguments import ArgumentName, problems_of_arguments
from hydra_ray.config.providers import PRESETS, ProviderName
from hydra_ray.config.section import Plugin, Section

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Reference to an environment variable in the value of a header or a parameter of the URL."""
_SECRET_NAME = re.compile(r"(?i)auth|cookie|key|token|secret|passw|credential|signature")
"""What the name of a header or parameter contains whose value is a secret."""
_SECRET_VALUE = re.compile(r"(?i)(bearer|basic|token) |sk-")
"""How a secret begins, whatever its name."""
_SENT_HEADERS = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection"})
"""Headers that belong to the connection."""
_UNCHANGEABLE = ("model", "messages", "n", "stream")
"""Fields of a request that `extra_body` must not have: what is read of the reply depends on them."""
_OMITTED_WITH = {
    "temperature": ("temperature",),
    "seed": ("seed", "random_seed"),
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("top_logprobs",),
    "max_tokens": ("max_tokens",),
    "max_completion_tokens": ("max_completion_tokens",),
    "n": ("n",),
}
"""Fields of a request that are left out, by the name in `omit_fields`."""
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$", max_length=4000)]
RequestField = Literal["temperature", "seed", "n", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"]


def looks_secret(value: str) -> bool:
    """Return whether a value begins as secrets do, so that it must not be told."""
    return _SECRET_VALUE.match(value) is not None


def _texts_in(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(each)


class ApiConfig(Section):
    """Endpoint that answers where `generator.engine` is openai, by `POST <base_url>/chat/completions`, or
    openai_batch."""

    provider: ProviderName | None = None
    """Provider whose documented rules the settings below begin with, instead of the defaults told there (see
    docs/endpoint.md for what each sets). What is given here goes before. Changes no answer by itself."""
    base_url: str = ""
    """URL up to and without `/chat/completions`, such as `https://api.openai.com/v1`: http or https, with no
    credentials, query or fragment. Needed unless `provider` has a fixed one."""
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    model_version: str = ""
    """Version that names the endpoint's answers together with `model`. Change it when the endpoint serves other
    weights under the same name: answers that were kept are then not found again."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    """Name of the environment variable that holds the key, on the machines where copies of the generator run. Null for
    an endpoint that wants no key."""
    api_key_header: HeaderName | None = None
    """Name of the header that carries the key alone, such as Azure's `api-key`. Null sends `Authorization: Bearer
    KEY`."""
    extra_headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Further headers of every call. `${NAME}` in a value stands for an environment variable of the machines where
    copies of the generator run; values of headers whose names tell of a secret must be made of such. Changes no
    answer."""
    extra_query: dict[str, str] = Field(default_factory=dict)
    """Parameters of the URL of every call, such as Azure's `api-version`; `${NAME}` stands for an environment variable
    as in `extra_headers`. Like the address they do not name answers: change `model_version` where they choose other
    weights."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """Further fields of every request, such as `{top_p: 0.95}`. A field that requests have anyway may stand here only
    if `omit_fields` leaves it out; `model`, `messages`, `n` and `stream` never."""
    omit_fields: list[RequestField] = Field(default=[])
    """Fields that are left out of requests, for endpoints that refuse them. Without `temperature` the endpoint's own
    applies to all requests, those for the likeliest answer included; without `n` a call asks for one sample."""
    is_thinking: bool = True
    """Whether the model may think before it answers. false sends the switch that `provider` documents; true sends
    nothing, so that the endpoint's own default applies. Use `extra_body` for other switches."""
    has_seed: bool = True
    """Whether the endpoint takes a seed. Where not, none is sent, and sampled answers are only as reproducible as they
    are kept."""
    seed_field: Literal["seed", "random_seed"] = "seed"
    """Name of the endpoint's parameter for the seed."""
    has_structured_outputs: bool = False
    """Whether the endpoint constrains answers to given texts, which `generator.is_constrained` needs."""
    choices_field: Literal["structured_outputs", "regex", "grammar"] = "structured_outputs"
    """Name and form of the endpoint's parameter for these texts: vLLM's `structured_outputs`, SGLang's `regex`, or
    `grammar` in the GBNF of llama.cpp."""
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
    """Largest number of calls for one request before it fails. A call is repeated after 408, 409, 425, 429, 449, 460,
    499 and 5xx, time-outs, broken connections and answers that cannot be read. One after which the endpoint asks to
    wait for a second or more is not counted."""
    max_backoff_seconds: float = Field(default=30, gt=0)
    """Longest pause before the next attempt, in seconds, where the endpoint names none. Pauses are random, below a
    bound that doubles from half a second on."""
    request_deadline_seconds: float = Field(default=600, gt=0)
    """Longest time from the first call of a request to the end of its last one, in seconds, pauses included; then the
    request fails. Where the endpoint asks to wait for longer (`Retry-After`), the run stops."""
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

    @model_validator(mode="before")
    @classmethod
    def _begin_with_preset(cls, given: Any) -> Any:
        """Return the given settings with those of the provider that are not given."""
        if not isinstance(given, Mapping):
            return given
        settings = cast(Mapping[str, Any], given)
        name = settings.get("provider")
        return {**PRESETS[name].settings, **settings} if isinstance(name, str) and name in PRESETS else settings

    @property
    def samples_per_call(self) -> int | None:
        """Largest number of samples that one call asks for; None asks for all."""
        return 1 if "n" in self.omit_fields else self.max_samples_per_call

    @property
    def omitted(self) -> frozenset[str]:
        """Names of all fields that are left out of requests."""
        return frozenset(each for name in self.omit_fields for each in _OMITTED_WITH[name])

    @property
    def added_fields(self) -> dict[str, JsonValue]:
        """Fields that are added to every request: the provider's switch of thinking and `extra_body`, which goes before
        it; mappings of both are joined."""
        preset = None if self.provider is None else PRESETS[self.provider]
        if preset is None or self.is_thinking:
            return dict(self.extra_body)
        joined: dict[str, JsonValue] = {**preset.without_thinking, **self.extra_body}
        for name, switch in preset.without_thinking.items():
            own = self.extra_body.get(name)
            if isinstance(switch, dict) and isinstance(own, dict):
                joined[name] = {**switch, **own}
        return joined

    @property
    def named_variables(self) -> list[str]:
        """Names of the environment variables that calls need, without the key's."""
        values = (*self.extra_headers.values(), *self.extra_query.values())
        found = (name for value in values for name in REFERENCE.findall(value))
        return list(dict.fromkeys(found))

    @model_validator(mode="after")
    def _check_calls(self) -> Self:
        for problem in self._problems_of_calls():
            raise ValueError(problem)
        return self

    def _problems_of_calls(self) -> Iterator[str]:
        """Yield what is wrong with the settings of a call's fields, query and headers; values are not told."""
        if fixed := [name for name in _UNCHANGEABLE if name in self.extra_body]:
            yield f"extra_body must not have {', '.join(fixed)}: what is read of a reply depends on it"
        own = {"temperature", "logprobs", "top_logprobs", self.length_field, *([self.seed_field] * self.has_seed)}
        if self.has_structured_outputs:
            own.add(self.choices_field)
        if doubled := sorted((own & set(self.extra_body)) - self.omitted):
            yield (
                f"extra_body has {', '.join(doubled)}, which requests have already: name it in omit_fields too, if it "
                "is to have one value in all of them"
            )
        if any(looks_secret(text) for text in _texts_in(self.extra_body)):
            yield (
                "extra_body holds what looks like a secret, which must not stand in a configuration: use extra_headers"
            )
        try:
            json.dumps(self.extra_body, allow_nan=False, ensure_ascii=False).encode()
            "".join([*self.extra_query, *self.extra_query.values()]).encode()
        except ValueError:
            yield "extra_body and extra_query must hold only what JSON can: finite numbers, and text that is Unicode"
        if "n" in self.omit_fields and (self.max_samples_per_call or 1) > 1:
            yield "omit_fields has n, so max_samples_per_call can only be 1 or null"
        if not self.is_thinking and not (self.provider and PRESETS[self.provider].without_thinking):
            yield (
                f"is_thinking is false, and the provider {self.provider} documents no switch for it: give the "
                "endpoint's own switch in extra_body"
            )
        yield from self._problems_of_headers()

    def _problems_of_headers(self) -> Iterator[str]:
        names = [name.lower() for name in self.extra_headers]
        key_header = (self.api_key_header or "authorization").lower()
        if taken := sorted({*_SENT_HEADERS, *([key_header] if self.api_key_env else [])} & set(names)):
            yield f"extra_headers must not have {', '.join(taken)}: the client sets it"
        if len(set(names)) < len(names):
            yield "extra_headers has a header twice, in upper and lower case"
        if self.api_key_header is not None and self.api_key_env is None:
            yield "api_key_header names a header for the key, and api_key_env no variable with one: set both or none"
        settings = (("extra_headers", self.extra_headers), ("extra_query", self.extra_query))
        for setting, name, value in ((each, *pair) for each, given in settings for pair in given.items()):
            own = REFERENCE.sub("", value)
            is_secret = (_SECRET_NAME.search(name) or looks_secret(value)) and own == value
            if is_secret or looks_secret(own.rpartition(" ")[2]):
                yield (
                    f"{setting}: the value of {name} looks like a secret, which must not stand in a configuration: "
                    "write ${NAME} and set that environment variable where the generator runs"
                )
            if "$" in own:
                yield f"{setting}: the value of {name} has a $ that is not part of ${{NAME}}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.base_url:
            raise ValueError(
                "base_url is needed: the address up to and without /chat/completions"
                + (f"; the provider {self.provider} has no fixed one" if self.provider else ", or name a provider")
            )
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
            raise ValueError(
                "base_url must hold no credentials and no query: keys come from api_key_env's variable, a query such "
                "as Azure's api-version belongs in extra_query"
            )
        if self.provider == "azure" and "/openai/deployments/" in url.path and "api-version" not in self.extra_query:
            raise ValueError(
                "base_url is that of an Azure deployment, which wants an API version: set extra_query to "
                "{api-version: VERSION}, or use https://NAME.openai.azure.com/openai/v1, which wants none"
            )
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

    engine: Plugin | Literal["vllm", "openai", "openai_batch", "fake", "none"] = "vllm"
    """Engine that generates. vllm: the model, loaded into Ray actors. openai: an OpenAI-compatible endpoint, as `api`
    says. openai_batch: the same endpoint, asked in batches that take up to a day a stage and cost less (see
    docs/batches.md). fake: a fixed rule, to test everything around the generator. none: no generator; in closed tasks
    whose records show labels, the label model and own heads answer from records alone, at no cost. module:name: an
    engine of yours (see docs/plugins.md)."""
    model: str = ""
    """Model: an absolute Hugging Face folder, s3://bucket/folder, a name of the Hugging Face hub (org/name or
    org/name@revision), or `package:NAME` for one that an installed Python package carries; see docs/models.md. With
    the engines openai and openai_batch, and with an engine of yours, the model whose tokenizer fits prompts to
    `max_model_tokens`: best the one that answers. Needed by every engine but none."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Floating-point type of weights and activations."""
    max_model_tokens: int = Field(default=2048, gt=0)
    """Largest number of tokens of a prompt and its answer together."""
    thinking_tokens: int = Field(default=0, ge=0)
    """Room for the thought of a reasoning model before its answer, in tokens, added to the length limit of each request
    and paid for like the answer. Thoughts are removed from answers. Where more than 0, vLLM decodes without constraint:
    one would forbid the thought. 0 is for models that do not think, or whose chat template can switch it off."""
    max_text_tokens: int = Field(default=256, gt=0)
    """Length, in the generator's tokens, to which each record and query in a prompt is cut."""
    is_constrained: bool = True
    """Whether decoding is constrained to the labels in a closed task. At an endpoint whose `api.has_structured_outputs`
    is false it is not: answers that name no label fail there."""
    prompt_form: Plugin | Literal["chat", "sentence"] = "chat"
    """Form of prompts. chat: records are turns of a conversation. sentence: LaMP's own form, records and query in one
    message. module:name: a function of yours (see docs/plugins.md)."""
    seed: int = 0
    """Seed of sampling."""
    engine_args: dict[ArgumentName, JsonValue] = Field(default_factory=dict)
    """Further arguments of vLLM's engine by their names in its EngineArgs, such as `{quantization: fp8,
    max_num_batched_tokens: 16384}`, where `engine` is vllm. `tensor_parallel_size` times `pipeline_parallel_size` are
    the GPUs of a copy, `placement.generator_gpus`. All others name kept answers, as some of them change answers."""
    is_batch_invariant: bool = False
    """Whether vLLM on GPUs computes each answer to the bit as if it were alone (its VLLM_BATCH_INVARIANT), which costs
    speed. Without it, the last bits of probabilities depend on what is answered at the same time."""
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    """Largest share of a stage's answers that may fail or be unusable; with more the run stops. Changes no answer."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the model's chat template, such as `{enable_thinking: false}`, for a loaded model and for endpoints
    that take them. A loaded model whose template has a switch of thinking (`enable_thinking`, `thinking`, `reasoning`,
    `thinking_budget`, `thinking_mode`) does not think, unless it is given here or `thinking_tokens` is more than 0."""
    api: ApiConfig | None = None
    """Endpoint; needed where `engine` is openai or openai_batch, and not allowed elsewhere."""
    batch: BatchConfig = BatchConfig()
    """Batches, where `engine` is openai_batch."""

    @property
    def can_constrain(self) -> bool:
        """Whether decoding is constrained in closed tasks: `is_constrained` says so, and the endpoint does it."""
        return self.is_constrained and (self.api is None or self.api.has_structured_outputs)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.engine in ("openai", "openai_batch")) != (self.api is not None):
            raise ValueError(
                "engine openai, and openai_batch, need the section generator.api, and no other engine has it"
            )
        if self.engine != "vllm" and (self.engine_args or self.is_batch_invariant):
            raise ValueError("engine_args and is_batch_invariant are vLLM's: no other engine has them")
        for problem in problems_of_arguments(self.engine_args):
            raise ValueError(problem)
        if any(looks_secret(text) for text in _texts_in(self.engine_args)):
            raise ValueError("engine_args holds what looks like a secret, which must not stand in a configuration")
        if self.engine == "none" and self.model:
            raise ValueError(
                "engine none has no model: leave generator.model out, on the command line 'generator={engine: none}'"
            )
        if self.engine != "none" and not self.model:
            raise ValueError("model is missing: every engine but none needs one")
        if self.thinking_tokens >= self.max_model_tokens:
            raise ValueError("thinking_tokens must leave room for a prompt and an answer within max_model_tokens")
        if self.api is not None and self.chat_template_kwargs:
            self._require_template_arguments(self.api)
        return self

    def _require_template_arguments(self, api: ApiConfig) -> None:
        if api.provider is not None and not PRESETS[api.provider].takes_template_arguments:
            takers = ", ".join(name for name, preset in PRESETS.items() if preset.takes_template_arguments)
            raise ValueError(
                f"chat_template_kwargs cannot be sent: the provider {api.provider} documents no such field, only "
                f"{takers} do; use generator.api.is_thinking or extra_body"
            )
        if "chat_template_kwargs" in api.extra_body:
            raise ValueError("chat_template_kwargs stands in generator and in generator.api.extra_body: give it once")
