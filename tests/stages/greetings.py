"""A stage that no run has, in one file as a real one: the generator writes a greeting of each evaluated user."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS
from hydra_ray.generate.parsing import text_error
from hydra_ray.generate.requests import make_request
from hydra_ray.rows import Asked, Completion, Message, User
from hydra_ray.stages.definition import Asking, Duration, Preview, StageDefinition
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import generator_settings
from hydra_ray.stages.tables import read_users, write_failures, write_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GreetedUser:
    """Row of the greetings table. Key: user_id."""

    user_id: str
    greeting: str | None


class GreetingsPart:
    """Requests and texts of a bucket's greetings."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        return list(_requests(self._plan, read_users(self._plan, bucket), open_tokenizer(self._plan.config.generator)))

    def commit(
        self, bucket: int, completions: Mapping[str, Completion], counters: Mapping[str, float]
    ) -> Mapping[str, float]:
        stage = self._plan.stage("greetings")
        rows = [
            GreetedUser(user_id=user_id, greeting=each.generations[0].text if each.generations else None)
            for user_id, each in completions.items()
        ]
        counters = {**counters, "answers": len(rows), "failed": sum(row.greeting is None for row in rows)}
        counters |= write_failures(stage, bucket, completions, text_error)
        return write_rows(stage, "greetings", bucket, rows, GreetedUser, counters)


def _requests(plan: Plan, users: Sequence[User], _: "PreTrainedTokenizerBase") -> Iterator[Asked]:
    for user in users:
        if user.is_evaluated():
            message = Message(role="user", content=f"Greet the writer of: {user.queries[0].input}")
            request = make_request(
                user_id=user.user_id, messages=(message,), max_tokens=MAX_TOKENS, config=plan.config.generator
            )
            yield Asked(key=user.user_id, request=request)


def _preview(preview: Preview) -> Iterable[Asked]:
    return _requests(preview.plan, preview.users, preview.tokenizer)


STAGES = (
    StageDefinition(
        name="greetings",
        version=1,
        inputs=("users",),
        settings=generator_settings,
        asks=Asking(work=GreetingsPart, preview=_preview),
        tables=lambda _: ("greetings", ERRORS),
        duration=Duration(fixed=1, per_user=0.01),
    ),
)
