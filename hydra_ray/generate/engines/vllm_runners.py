"""vLLM's two ways to run: a step at a time on CPU, and as an engine of its own that is always fed on GPUs.

Both work in a thread of their own, where the model was loaded: vLLM binds its OpenMP threads, and its engine's sockets
to an event loop, when it is loaded, whereas callers may come from any event loop.
"""

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.inputs import TokensInput
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.llm_engine import LLMEngine

Asked = tuple["TokensInput", "SamplingParams"]
"""A prompt, and how it is answered."""
Answered = tuple[int, "RequestOutput"]
"""The place of a prompt among those of the same call, and its final output."""
Put = Callable[[Sequence[Answered]], None]
"""Function that takes answers, from any thread."""

MAX_PARTS = 16
"""Number of parts that an engine on GPUs has at the same time, so that the last answers of one come amid others'."""
_FEED_FACTOR = 2
"""Number of requests inside the engine, as a multiple of the sequences that it decodes at the same time: those that
wait there are at hand when a sequence ends, the others wait here."""


class Runner(Protocol):
    """A loaded model that answers tokenized prompts."""

    max_parts: int
    """Number of parts that are worth answering at the same time."""

    def run(self, asked: Sequence[Asked]) -> AsyncGenerator[Sequence[Answered], None]:
        """Yield the answers to the prompts of a part as they come, which are begun in the given order.

        Raises:
            Exception: the engine failed and cannot be used any more.
        """
        ...

    def close(self) -> None:
        """Release the model's memory."""
        ...


class StepRunner:
    """vLLM in this process, on CPU. A part is answered alone, so that its answers depend on its prompts only."""

    max_parts = 2
    """One that is answered, and the next one, which is made ready meanwhile and waits."""

    def __init__(self, arguments: Mapping[str, Any], num_threads: int):
        """Load the model.

        Args:
            arguments: of vLLM's EngineArgs.
            num_threads: number of OpenMP threads.
        """
        self._numbers = itertools.count()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm")
        self.engine = self._thread.submit(_load_in_process, arguments, num_threads).result()
        """The loaded model."""

    async def run(self, asked: Sequence[Asked]) -> AsyncGenerator[Sequence[Answered], None]:
        """Yield the answers to the prompts of a part, those of a step at a time."""
        outlet, stop = _Outlet(), threading.Event()
        work = self._thread.submit(self._run, asked, outlet.put, stop)
        outlet.close_after(work)
        try:
            async for answered in outlet:
                yield answered
        finally:
            stop.set()

    def close(self) -> None:
        """Release the model's memory."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _run(self, asked: Sequence[Asked], put: Put, stop: threading.Event) -> None:
        engine = self.engine
        if not engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache cannot be emptied, some of its blocks are still in use")
        places = {str(next(self._numbers)): place for place in range(len(asked))}
        for name, (prompt, params) in zip(places, asked, strict=True):
            engine.add_request(name, prompt, params)
        while engine.has_unfinished_requests() and not stop.is_set():
            outputs: list[Any] = engine.step()
            if outputs:
                put([(places[output.request_id], output) for output in outputs])
        if stop.is_set():
            engine.abort_request(list(places))

    def _close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.engine.engine_core.shutdown()
        del self.engine
        cleanup_dist_env_and_memory()
        gc.collect()


class AsyncRunner:
    """vLLM's asynchronous engine in processes of its own, with the requests of several parts in flight, so that it has
    always as many as it can take. Which of them are answered together depends on when they come."""

    max_parts = MAX_PARTS

    def __init__(self, start: Callable[[], Coroutine[Any, Any, "AsyncLLM"]]):
        """Start the engine.

        Args:
            start: starts it in the event loop that it will be used in, such as `start_engine`.
        """
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self.engine = self._submit(start()).result()
            """The engine, to be used in its event loop alone."""
        except BaseException:
            self._end_loop()
            raise
        self._room = asyncio.Semaphore(_FEED_FACTOR * self.engine.vllm_config.scheduler_config.max_num_seqs)

    async def run(self, asked: Sequence[Asked]) -> AsyncGenerator[Sequence[Answered], None]:
        """Yield the answers to the prompts of a part as they come."""
        outlet = _Outlet()
        work = self._submit(self._feed(asked, outlet.put))
        outlet.close_after(work)
        try:
            async for answered in outlet:
                yield answered
        finally:
            work.cancel()

    def close(self) -> None:
        """End the engine's processes."""
        self._submit(self._shut_down()).result()
        self._end_loop()
        gc.collect()

    async def _feed(self, asked: Sequence[Asked], put: Put) -> None:
        """Give the engine the prompts in their order, as far as it has room."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for place, each in enumerate(asked):
                    await self._room.acquire()
                    task = tasks.create_task(self._answer(place, each, put))
                    task.add_done_callback(lambda _: self._room.release())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _answer(self, place: int, asked: Asked, put: Put) -> None:
        async for output in self.engine.generate(*asked, str(next(self._numbers))):
            put([(place, output)])

    async def _shut_down(self) -> None:
        self.engine.shutdown()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Outlet:
    """Answers that another thread puts, for one reader in this event loop, who takes all that have come at once."""

    def __init__(self) -> None:
        self._loop, self._has_come = asyncio.get_running_loop(), asyncio.Event()
        self._lock = threading.Lock()
        self._answered: list[Answered] = []
        self._work: Future[None] | None = None

    def put(self, answered: Sequence[Answered]) -> None:
        """Add answers, from any thread."""
        with self._lock:
            is_awaited = not self._answered  # else the reader is woken already
            self._answered.extend(answered)
        if is_awaited:
            self._wake()

    def close_after(self, work: "Future[None]") -> None:
        """End when `work`, which puts the answers, ends; with its error where it has one."""
        self._work = work
        work.add_done_callback(lambda _: self._wake())

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the reader's event loop is closed: it was cancelled
            self._loop.call_soon_threadsafe(self._has_come.set)

    async def __aiter__(self) -> AsyncIterator[list[Answered]]:
        assert self._work is not None
        is_over = False
        while not is_over:
            await self._has_come.wait()
            self._has_come.clear()
            is_over = self._work.done()  # then nothing is put any more
            with self._lock:
                answered, self._answered = self._answered, []
            if answered:
                yield answered
        self._work.result()


def _load_in_process(arguments: Mapping[str, Any], num_threads: int) -> "LLMEngine":
    """Return a loaded model, to be used in this thread."""
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    # If torch was imported earlier, OpenMP did not read the environment variable.
    torch.set_num_threads(num_threads)
    engine = LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
    # Otherwise threads compile constraints while the first steps run without their requests, and how many such steps
    # there are depends on other load. vLLM does so where the ranks must take the same steps.
    core: Any = engine.engine_core
    core.engine_core.structured_output_manager._use_async_grammar_compilation = False
    return engine


async def start_engine(arguments: Mapping[str, Any]) -> "AsyncLLM":
    """Return a started engine, which belongs to this event loop.

    Args:
        arguments: of vLLM's EngineArgs.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
