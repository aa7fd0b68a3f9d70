"""Profiles: a text that the generator writes about each evaluated user, for the baselines that prompt with it."""

from collections.abc import Iterator, Mapping

from hydra_ray.adapt.profiles import profile_requests, written_profiles
from hydra_ray.engine.parts import Counters
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.failures import ERRORS
from hydra_ray.generate.parsing import text_error
from hydra_ray.generate.prompts import PROFILE_TOKENS
from hydra_ray.rows import Asked, Completion, ProfiledUser, User
from hydra_ray.stages.definition import Asking, Duration, Preview, StageDefinition, with_scorers
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.planning import generator_settings
from hydra_ray.stages.tables import read_users, write_failures, write_rows


class ProfilesPart:
    """Requests and texts of a bucket's profiles."""

    def __init__(self, plan: Plan):
        self._plan = plan

    def requests(self, bucket: int) -> list[Asked]:
        """Return one greedy request for each evaluated user."""
        config = self._plan.config.generator
        return list(profile_requests(read_users(self._plan, bucket), self._plan.task, open_tokenizer(config), config))

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Commit the profiles."""
        stage = self._plan.profiles
        rows = list(written_profiles(read_users(self._plan, bucket), completions))
        counters = {**counters, "answers": len(completions), "failed": sum(row.error is not None for row in rows)}
        counters |= write_failures(stage, bucket, completions, text_error)
        return write_rows(stage, "profiles", bucket, rows, ProfiledUser, counters)


def guessed_profile(user: User, preview: Preview) -> ProfiledUser:
    """Return a profile of the expected length."""
    num_tokens = preview.expected_tokens("profiles", PROFILE_TOKENS)
    # Common words are a token each.
    text = " ".join(["like"] * round(num_tokens)) if user.is_evaluated() and user.history else None
    return ProfiledUser(user_id=user.user_id, profile=text, error=None)


def _preview(preview: Preview) -> Iterator[Asked]:
    plan = preview.plan
    return iter(profile_requests(preview.users, plan.task, preview.tokenizer, plan.config.generator))


STAGES = (
    StageDefinition(
        name="profiles",
        version=1,
        inputs=("users",),
        settings=generator_settings,
        is_made=with_scorers,
        asks=Asking(work=ProfilesPart, preview=_preview),
        tables=lambda _: ("profiles", ERRORS),
        duration=Duration(fixed=25, per_user=0.01),
    ),
)
