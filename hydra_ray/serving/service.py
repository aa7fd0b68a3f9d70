"""The scorer over HTTP, as a FastAPI application: for uvicorn, and for Ray Serve (`hydra_ray.serving.ray_serve`)."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hydra_ray.config.section import Section
from hydra_ray.errors import ConfigError, HydraError, InputError, ReplyError
from hydra_ray.extras import naming_extras
from hydra_ray.rows import Draft, Probe, Request
from hydra_ray.serving.followed import FollowedScorer
from hydra_ray.serving.outcomes import Chosen
from hydra_ray.serving.prompts import ServedPrompt

with naming_extras():
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import JSONResponse
    from openai import AsyncOpenAI, OpenAIError

_API_KEY = "OPENAI_API_KEY"
_OF_CALLERS = (ConfigError, InputError, ReplyError)
"""Errors of what was sent; all others are the service's own."""
_log = logging.getLogger(__name__)

Messages = list[dict[str, Any]]


class ServiceConfig(Section):
    """What a service serves."""

    scorer: str
    """Folder or URI of an export, or of a finished run, `<storage.root>/runs/<run>`, which each process exports for
    itself."""
    run: str | None = None
    """Folder or URI of the run whose updates are pulled; by default where the export found it."""
    pull_seconds: float = Field(default=5, ge=0)
    """Time between two looks for updates and for users to forget; 0 never looks."""
    model: str | None = None
    """Name of the generator at the endpoint that OPENAI_BASE_URL names; by default the one that the run asked."""
    llm_seconds: float = Field(default=60, gt=0)
    """Longest time that the endpoint may take for one call."""


class Asked(BaseModel):
    """A query of a user."""

    model_config = ConfigDict(extra="forbid")
    user: str
    query: str | Messages
    history: list[dict[str, Any]] | None = None
    """Records in the place of those that are known, as in users' files."""


class Prompt(BaseModel):
    """A prompt, as `/prompts` gives it and `/choose` takes it back."""

    name: str
    record_ids: tuple[str, ...]
    request: Request
    calls: list[dict[str, Any]] = []
    """Arguments of each call of an OpenAI-compatible endpoint that asks for all samples."""


class Replied(BaseModel):
    """The replies to a prompt's calls, in their order: chat completions as the endpoint sent them."""

    model_config = ConfigDict(extra="forbid")
    prompt: Prompt
    replies: list[dict[str, Any]]


class Drafted(Asked):
    """A query with drafts of its answer."""

    drafts: list[str | Messages] = []
    """Texts, or conversations that end with the answer: samples of no known prompt, or candidates."""
    replied: list[Replied] = []


class Told(BaseModel):
    """What is new of a user."""

    model_config = ConfigDict(extra="forbid")
    user: str
    records: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """As in the history of a row of users' files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Chosen):
    """A choice among the endpoint's drafts."""

    num_failed_prompts: int
    """Number of prompts that the endpoint did not answer; they are left out of the choice."""


def make_service(followed: FollowedScorer, config: ServiceConfig) -> FastAPI:
    """Return the application, which closes the scorer when it is shut down.

    A request that is wrong is answered with status 422, or 400 where the scorer refuses it, and what cannot be answered
    now with 503; `detail` says why.
    """
    service = _Service(followed, config)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title=f"hydra_ray: {followed.scorer.config.run}", lifespan=closing)
    app.add_exception_handler(HydraError, _refusal)
    for answer in (service.prompts, service.choose, service.answer, service.learn, service.pull):
        app.add_api_route(f"/{answer.__name__}", answer, methods=["POST"])
    app.add_api_route("/health", service.health)
    return app


class _Service:
    """What answers requests; functions that compute are called in threads."""

    def __init__(self, followed: FollowedScorer, config: ServiceConfig) -> None:
        self._followed, self._scorer, self._model = followed, followed.scorer, config.model
        has_llm = self._scorer.config.has_scorers and os.environ.get(_API_KEY)
        self._llm = AsyncOpenAI(timeout=config.llm_seconds) if has_llm else None

    async def close(self) -> None:
        await asyncio.to_thread(self._followed.close)
        if self._llm is not None:
            await self._llm.close()

    def prompts(self, asked: Asked) -> list[Prompt]:
        """Return the prompts that the run would send for a query."""
        return [
            Prompt(
                name=each.name,
                record_ids=each.record_ids,
                request=each.request,
                calls=list(each.calls(self._model)),
            )
            for each in self._scorer.prompts(asked.user, asked.query, history=asked.history)
        ]

    def choose(self, given: Drafted) -> Chosen:
        """Choose the answer among drafts."""
        answers = [answer for each in given.replied for answer in self._served(each.prompt).read(*each.replies)]
        return self._scorer.choose(given.user, given.query, [*given.drafts, *answers], history=given.history)

    async def answer(self, asked: Asked) -> Answered:
        """Ask the endpoint for drafts, and choose among them."""
        query = (asked.user, asked.query)
        prompts = await asyncio.to_thread(self._scorer.prompts, *query, history=asked.history)
        found = await asyncio.gather(*map(self._drafts, prompts))
        drafts = [draft for each in found if each is not None for draft in each]
        chosen = await asyncio.to_thread(self._scorer.choose, *query, drafts, history=asked.history)
        return Answered(**asdict(chosen), num_failed_prompts=found.count(None))

    def learn(self, told: Told) -> dict[str, int]:
        """Learn new records of a user, in the memory of this process; return how many records are known now."""
        self._scorer.learn(told.user, told.records)
        return {"num_records": len(self._scorer.history_of(told.user))}

    def pull(self) -> dict[str, tuple[str, ...]]:
        """Pull now, in this process."""
        return {"updates": self._followed.pull()}

    def health(self) -> dict[str, Any]:
        """Return what was pulled, and when; status 503 where the run is not followed any more."""
        require_followed(self._followed)
        return {"updates": self._followed.updates, "seconds_since_pull": round(self._followed.seconds_since_pull, 1)}

    async def _drafts(self, prompt: ServedPrompt) -> list[Draft | Probe] | None:
        """Return the answers of the endpoint to a prompt; None where it has none that can be used."""
        if self._llm is None:
            raise HTTPException(503, f"no endpoint to ask for drafts: set {_API_KEY} and OPENAI_BASE_URL")
        try:
            calls = prompt.calls(self._model)
            return prompt.read(*[await self._llm.chat.completions.create(**call) for call in calls])
        except (OpenAIError, ReplyError) as error:  # whose texts may hold the user's
            _log.warning("the prompt %s is not answered: %s", prompt.name, type(error).__name__)
            return None

    def _served(self, prompt: Prompt) -> ServedPrompt:
        return ServedPrompt(
            name=prompt.name,
            record_ids=prompt.record_ids,
            request=prompt.request,
            text=None,
            task=self._scorer.task,
            generator=self._scorer.config.generator,
        )


def require_followed(followed: FollowedScorer) -> None:
    """Check that the scorer still follows its run.

    Raises:
        HTTPException: it does not; the process is to be replaced.
    """
    if not followed.is_followed:
        raise HTTPException(503, "updates are not pulled any more; the log says why")


def _refusal(_: object, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 400 if isinstance(error, _OF_CALLERS) else 503)
