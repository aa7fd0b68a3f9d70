"""Ray's place taken by this process: the same work in the same order, without a cluster, in seconds.

Only several workers cannot train bases so.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hydra_ray.engine.dispatch import Part
from hydra_ray.engine.generator_actor import GeneratorActor, Loadable

Row = dict[str, Any]


class Dataset:
    """As much of a Ray dataset as streams of parts need; it is computed when it is read, row by row."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = rows

    def map(self, work: Callable[[Row], Row], **_: Any) -> "Dataset":
        return Dataset(map(work, self._rows))

    def map_batches(self, work: Callable[..., Any], *, fn_constructor_kwargs: Row, **_: Any) -> "Dataset":
        actor = work(**fn_constructor_kwargs)
        batches = ({name: _column(value) for name, value in row.items()} for row in self._rows)
        return Dataset({name: values[0] for name, values in awaited(actor(batch)).items()} for batch in batches)

    def rows(self) -> Iterable[Row]:
        return self._rows

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        return (pa.Table.from_pylist([row]) for row in self._rows)


def install(patch: pytest.MonkeyPatch) -> None:
    """Put this process in the place of Ray."""
    import ray
    import ray.data
    from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    # Imported here: threads in the place of workers, two of which import a module of transformers at once, fail.
    del AutoModel, AutoTokenizer, PreTrainedTokenizerFast
    decorate = ray.remote  # Ray's own modules, some of which are imported later, still need it
    patch.setattr(ray, "remote", lambda *work, **_: decorate(*work) if work else _Remote)
    patch.setattr(ray, "get", lambda found, **_: found)
    patch.setattr(ray, "wait", lambda found, **_: (found, []))
    patch.setattr(ray, "put", lambda value: value)
    patch.setattr("hydra_ray.engine.generation.open_pool", Pool)
    patch.setattr("hydra_ray.stages.overlap.has_room_beside", lambda *_: True)
    patch.setattr(ray.data, "from_items", lambda rows, **_: Dataset(rows))
    for module in ("engine.parts", "engine.tasks", "stages.scorer"):
        patch.setattr(f"hydra_ray.{module}.start_ray", lambda: None)
    for module in ("scorer.heads.fit", "stages.own_heads"):
        patch.setattr(f"hydra_ray.{module}.run_trials", run_trials)


def run_trials(
    work: Callable[[Mapping[str, Any]], Any], grid: Mapping[str, Sequence[Any]], *_: Any
) -> list[tuple[Mapping[str, Any], Any]]:
    points = [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]
    return [(point, work(point)) for point in points]


def awaited(found: Any) -> Any:
    """Return a value, or what a coroutine returns."""
    return asyncio.run(found) if inspect.iscoroutine(found) else found


class Pool:
    """As much of a pool of generators as answers parts, with one copy that is loaded by the first of them."""

    def __init__(self) -> None:
        self._loadables: dict[str, Loadable] = {}
        self._actors: dict[str, GeneratorActor] = {}
        self.offer, self.answer = _Remote(self._offer), _Remote(self._answer)
        self.give_up, self.under_way = _Remote(lambda _: None), _Remote(lambda _: [])

    async def _offer(self, key: str, loadable: Loadable) -> None:
        self._loadables[key] = loadable

    async def _answer(self, key: str, part: Part) -> tuple[bytes, float]:
        if key not in self._actors:
            self._actors[key] = GeneratorActor(self._loadables[key])
            await self._actors[key].open()
        return await self._actors[key].answer(**part.content)


class _Remote:
    def __init__(self, work: Callable[..., Any]):
        self.remote = work


def _column(value: Any) -> np.ndarray:
    column = np.empty(1, object)
    column[0] = value
    return column
