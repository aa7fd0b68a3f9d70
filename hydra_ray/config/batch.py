"""The section `generator.batch`: batches of requests that an endpoint answers within a day, at a lower price."""

from pydantic import Field

from hydra_ray.config.section import Section


class BatchConfig(Section):
    """Batches, where `generator.engine` is openai_batch: `POST <base_url>/files` and `<base_url>/batches`. Changes no
    answer."""

    completion_window: str = Field(default="24h", pattern=r"^[1-9][0-9]{0,2}[hd]$")
    """Time within which the endpoint promises the answers of a batch: a number of hours (24h) or days (7d)."""
    endpoint: str = Field(default="/v1/chat/completions", pattern=r"^/[A-Za-z0-9/._-]+$", max_length=200)
    """Path that a batch and each of its lines name; it does not depend on `generator.api.base_url`."""
    max_requests_per_file: int = Field(default=50_000, gt=0)
    """Largest number of lines of a batch. A request with more samples than `generator.api.max_samples_per_call` is
    several lines."""
    max_file_bytes: int = Field(default=200_000_000, gt=0)
    """Largest size of the file of a batch, in bytes."""
    max_enqueued_tokens: int | None = Field(default=None, gt=0)
    """Largest number of prompt tokens, as estimated, of all batches of a model at the same time; later ones wait until
    earlier ones are answered. Null submits all at once, and again later those that the endpoint has no room for."""
    poll_seconds: float = Field(default=15, gt=0)
    """First pause between two looks at the batches, in seconds. It doubles up to `max_poll_seconds`, and begins anew
    when something has changed."""
    max_poll_seconds: float = Field(default=300, gt=0)
    """Longest pause between two looks at the batches, in seconds."""
    deadline_hours: float = Field(default=72, gt=0)
    """Longest wait for the batches of one stage, in hours, with retries. Then the run stops; batches under way are
    left, and the next run waits for them."""
    max_rounds: int = Field(default=3, gt=0)
    """Largest number of batches in which a request is asked. One that has no answer then is a failed row, which
    `hydra-ray retry` repeats."""
    price_factor: float = Field(default=0.5, ge=0, le=1)
    """Price of a token in a batch, as a share of `generator.api.prompt_price` and `generated_price`."""
    keeps_files: bool = False
    """Whether files stay at the endpoint after their answers are stored here. They hold users' texts."""

    @property
    def window_seconds(self) -> int:
        """Completion window in seconds."""
        return int(self.completion_window[:-1]) * {"h": 3600, "d": 86_400}[self.completion_window[-1]]
