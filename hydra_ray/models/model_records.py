"""What the fingerprints under a root say of each model.

That is the model's identity, its content. But stages that were made when a folder was identified by its files' names
and sizes, and a model of the hub by its name, are found again and never made anew: where a root has such stages of a
model, the root's record of the model keeps that name for it. A run writes the record before anything else.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

from hydra_ray import storage
from hydra_ray.config import RunConfig
from hydra_ray.errors import StorageError
from hydra_ray.models import Model, open_model
from hydra_ray.models.folder import is_content
from hydra_ray.models.hub import UnreachableHubError
from hydra_ray.runs.stage import MANIFEST, fingerprint

MODELS = "models"
"""Name of the folder of all records in a root."""
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model as the runs under one root know it; what the root's record of it says."""

    place: str
    """Where it was found first."""
    content: str
    """Its identity by content."""
    former: str | None
    """Its identity before it was the content, where it had another one."""
    identity: str
    """Which of the two fingerprints under the root say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedModel:
    """A model that a run uses."""

    known: KnownModel
    source: str
    """Where it was found this time, as `Model.source` tells it."""
    pinned: str
    """The name by which workers find the same content."""

    @property
    def identity(self) -> str:
        """What fingerprints say of it."""
        return self.known.identity


@dataclass(frozen=True, slots=True, kw_only=True)
class RunModels:
    """The models of a run, by what they are used for."""

    generator: UsedModel
    retriever: UsedModel | None
    reranker: UsedModel
    adapter: UsedModel

    def pinned(self, config: RunConfig) -> RunConfig:
        """Return the run's configuration with names that mean the same content on every node and for ever."""
        retriever = self.retriever and self.retriever.pinned
        return _with_models(config, self.generator.pinned, retriever, self.reranker.pinned, self.adapter.pinned)

    def record(self, root: str) -> None:
        """Keep what fingerprints under a root say of the models.

        Raises:
            StorageError: another run has just recorded something else.
        """
        for used in (self.generator, self.retriever, self.reranker, self.adapter):
            if used is not None and is_content(used.known.content):
                _record(root, used)


def models_of(config: RunConfig) -> RunModels:
    """Return the models of a run; a model that is in a store, and of which the root knows nothing, is brought here.

    Raises:
        ModelError: a model is missing.
    """
    known: list[KnownModel] = []

    def find(spec: str, *, with_weights: bool = True) -> UsedModel:
        used = _find(config.storage.root, spec, known, with_weights=with_weights)
        known.append(used.known)
        return used

    encoder = config.retrieve.encoder
    return RunModels(
        # Of an endpoint's model the tokenizer alone is used.
        generator=find(config.generator.model, with_weights=config.generator.engine == "vllm"),
        retriever=None if encoder is None else find(encoder),
        reranker=find(config.reranker.base.encoder),
        adapter=find(config.adapter.base.encoder),
    )


def without_pins(config: RunConfig) -> RunConfig:
    """Return a configuration with the models' places alone: what they hold is told by what they are used for."""
    places = [open_model(each).place for each in (config.generator.model, config.reranker.base.encoder)]
    encoder = config.retrieve.encoder
    retriever = None if encoder is None else open_model(encoder).place
    return _with_models(config, places[0], retriever, places[1], open_model(config.adapter.base.encoder).place)


def _with_models(config: RunConfig, generator: str, retriever: str | None, reranker: str, adapter: str) -> RunConfig:
    def scorer(name: str, encoder: str) -> object:
        section = getattr(config, name)
        return section.model_copy(update={"base": section.base.model_copy(update={"encoder": encoder})})

    return config.model_copy(
        update={
            "generator": config.generator.model_copy(update={"model": generator}),
            "retrieve": config.retrieve.model_copy(update={"encoder": retriever}),
            "reranker": scorer("reranker", reranker),
            "adapter": scorer("adapter", adapter),
        }
    )


def _find(root: str, spec: str, others: Sequence[KnownModel], *, with_weights: bool) -> UsedModel:
    """Return a model of a run that also uses `others`."""
    model = open_model(spec)
    try:
        source = model.source(with_weights=with_weights)
        known = _read(root, source) if source else None
        if known is None:
            content = model.identity(with_weights=with_weights)
            known = (is_content(content) and _read(root, content)) or _settle(root, model, content, others)
        return UsedModel(known=known, source=source, pinned=model.pinned(known.content))
    except UnreachableHubError:
        known = _remembered(root, model)
        if known is None:
            raise
        return UsedModel(known=known, source="", pinned=spec)


def _remembered(root: str, model: Model) -> KnownModel | None:
    """What the runs under the root that were made with a model say of it, which is not here and cannot be asked for.

    It is enough to read what they made.
    """
    for each in _records(root):
        if each.place == model.place:
            return each
    former = model.former_identity()
    if former is not None and any(_names(each, former) for each in _traces(root)):
        return KnownModel(place=model.place, content="", former=former, identity=former)
    return None


def _settle(root: str, model: Model, content: str, others: Sequence[KnownModel]) -> KnownModel:
    """Decide what fingerprints say of a model that no run under the root has recorded."""
    own = KnownModel(place=model.place, content=content, former=None, identity=content)
    if not is_content(content):
        return own
    traces = list(_traces(root))
    former = model.former_identity() if traces else None
    # Records are read after the traces: whoever leaves a trace has written a record before.
    recorded = [*others, *_records(root)]
    for each in recorded:
        if each.content == content:
            return each
    own = replace(own, former=former)
    is_used = former is not None and any(_names(each, former) or _names(each, model.place) for each in traces)
    # What an earlier name stands for is settled by the first model that is found by it.
    if is_used and not any(_have_one_name(own, each) for each in recorded):
        return replace(own, identity=former or content)
    return own


def _have_one_name(first: KnownModel, second: KnownModel) -> bool:
    """Tell whether two models, of the same use, were told apart by neither place nor earlier identity."""
    is_same_use = len(first.content) == len(second.content)
    return is_same_use and (first.place == second.place or first.former == second.former)


def _names(trace: bytes, name: str) -> bool:
    return json.dumps(name, ensure_ascii=False).encode() in trace


def _traces(root: str) -> Iterator[bytes]:
    """What runs and complete stages under a root say of their settings."""
    locations = [
        *_files(storage.join(root, "runs"), ("config.json", "stages.json")),
        *_files(storage.join(root, "stages"), (MANIFEST,)),
    ]
    return _contents(locations)


def _records(root: str) -> list[KnownModel]:
    return [_parsed(each) for each in _contents(_files(storage.join(root, MODELS), (".json",)))]


def _files(folder: str, endings: tuple[str, ...]) -> list[str]:
    return [storage.join(folder, path) for path in storage.list_tree(folder) if path.endswith(endings)]


def _contents(locations: Sequence[str]) -> Iterator[bytes]:
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from (each for each in pool.map(storage.read_if_there, locations) if each is not None)


def _read(root: str, key: str) -> KnownModel | None:
    content = storage.read_if_there(_location(root, key))
    return None if content is None else _parsed(content)


def _parsed(content: bytes) -> KnownModel:
    try:
        return KnownModel(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"a record of a model is damaged ({error}): restore the folder `{MODELS}` of the root from a backup, or "
            "remove it; then models that were replaced meanwhile are told by their content alone"
        ) from error


def _record(root: str, used: UsedModel) -> None:
    content = json.dumps(asdict(used.known), indent=2, ensure_ascii=False).encode()
    for key in filter(None, (used.known.content, used.source)):
        if not storage.write_new(_location(root, key), content) and not _agrees(root, key, used):
            raise StorageError(f"another run under {root} has just recorded {used.known.place}: run again")


def _agrees(root: str, key: str, used: UsedModel) -> bool:
    recorded = _read(root, key)
    return recorded is not None and recorded.identity == used.identity


def _location(root: str, key: str) -> str:
    return storage.join(root, MODELS, f"{fingerprint('model', 1, {}, [key])}.json")
