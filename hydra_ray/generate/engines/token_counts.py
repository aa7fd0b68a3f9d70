"""What an endpoint does not report, by the tokenizer of the configured model: lengths of prompts and answers, and
whether prompts end inside a thought."""

from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from hydra_ray.config import GeneratorConfig
from hydra_ray.errors import HydraError
from hydra_ray.generate.calls import expected_tokens
from hydra_ray.generate.chat_template import open_template
from hydra_ray.generate.prompts import count_prompt_tokens
from hydra_ray.generate.replies import approximate_tokens
from hydra_ray.generate.thoughts import opens_thought
from hydra_ray.models import load_tokenizer
from hydra_ray.rows import Message, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenCounts:
    """Counts tokens by the generator's tokenizer, loaded when it is first needed; by characters where there is none."""

    def __init__(self, config: GeneratorConfig):
        self._config = config
        self._lock = Lock()
        self._is_open, self._tokenizer = False, None

    def of_text(self, text: str) -> int:
        """Return the length of a text."""
        with self._lock:
            tokenizer = self._opened()
            return approximate_tokens(text) if tokenizer is None else len(tokenizer(text)["input_ids"])

    def of_prompt(self, request: Request) -> int:
        """Return the length of a request's prompt."""
        with self._lock:
            tokenizer = self._opened()
            try:
                if tokenizer is not None:
                    return count_prompt_tokens(request.messages, tokenizer, self._config)
            except HydraError:  # a template that refuses turns that the endpoint takes
                pass
            return expected_tokens(request, 0)

    @cached_property
    def opens_thought(self) -> bool:
        """Whether prompts end inside a thought, so that answers that were cut may have no mark of it."""
        with self._lock:
            tokenizer = self._opened()
            try:
                if tokenizer is not None:
                    rendered = open_template(tokenizer, self._config).render([Message(role="user", content="x")])
                    return opens_thought(rendered)
            except HydraError:  # a template that cannot be used here
                pass
            return False

    def _opened(self) -> "PreTrainedTokenizerBase | None":
        if not self._is_open:
            self._is_open = True
            try:
                self._tokenizer = load_tokenizer(self._config.model)
            except (HydraError, OSError, ValueError, ImportError):  # it is only on the driver
                self._tokenizer = None
        return self._tokenizer
