"""Arguments of chat templates besides the messages: those of the configuration, and switches of thinking."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra_ray.config.check import did_you_mean
from hydra_ray.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING_SWITCHES: Mapping[str, Any] = {
    "enable_thinking": False,  # Qwen3, GLM-4.5, SmolLM3, Nemotron, Hunyuan, EXAONE 4, Gemma 4
    "thinking": False,  # DeepSeek-V3.1, Granite, Kimi
    "reasoning": False,  # Command A Reasoning
    "thinking_budget": 0,  # Seed-OSS
    "thinking_mode": "disabled",  # MiniMax-M3
}
"""Arguments of public chat templates by which a model does not think, by name."""

_RESERVED = (
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
)  # fmt: skip


def template_arguments(
    tokenizer: "PreTrainedTokenizerBase", text: str, given: Mapping[str, Any], *, is_local: bool, is_thinking: bool
) -> dict[str, Any]:
    """Return the template's arguments besides the messages; of an endpoint, those that the local template knows.

    Args:
        text: source of the template.
        given: `generator.chat_template_kwargs`.

    Raises:
        ConfigError: the template has no such argument.
        ModelError: it is no template.
    """
    known = _variables(tokenizer, text)
    if not is_local:
        return {name: each for name, each in given.items() if name in known and name not in _RESERVED}
    for name in given:
        if name in _RESERVED:
            raise ConfigError(f"generator.chat_template_kwargs.{name} is set by hydra_ray itself: leave it out.")
        if name not in known:
            own = sorted(known.difference(_RESERVED))
            raise ConfigError(
                f"the chat template of {tokenizer.name_or_path} has no argument {name}, which "
                f"generator.chat_template_kwargs gives{did_you_mean(name, own) or '.'} "
                f"It has {', '.join(own) or 'none'}."
            )
    switched = {} if is_thinking else {name: off for name, off in THINKING_SWITCHES.items() if name in known}
    # A switch that is given speaks for all others.
    return dict(given) if given.keys() & THINKING_SWITCHES.keys() else {**switched, **given}


def _variables(tokenizer: "PreTrainedTokenizerBase", text: str) -> frozenset[str]:
    """Return the names that a template reads and does not define."""
    from jinja2 import Environment, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.meta import find_undeclared_variables
    from jinja2.parser import Parser

    class Generation(Extension):
        """Transformers' own tag around the turns that a model learns from."""

        tags = {"generation"}  # noqa: RUF012 -- declared so by jinja2

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        names = find_undeclared_variables(Environment(extensions=[loopcontrols, Generation]).parse(text))
    except (TemplateError, RecursionError) as error:
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} is no template that can be read ({error}): put the model's "
            "tokenizer files there again."
        ) from error
    return frozenset(names - {"raise_exception", "strftime_now", "namespace", "range", "dict"})
