"""Records of the models used under a root, with the identity that fingerprints contain.

The identity of a model is a hash of its content. Stages from when a folder was identified by its files' names and
sizes,
and a model of the hub by its name, must still be found: where a root has such stages of a model, the root's record of
the model keeps the former identity. A run writes the record before anything else.
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
from hydra_ray.storage.seals import sealed_json, unsealed

MODELS = "models"
"""Name of the folder of all records in a root."""
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """Record of a model under one root."""

    place: str
    """Place where it was found first."""
    content: str
    """Identity by content."""
    former: str | None
    """Identity from before content hashes; None where it had no other one."""
    identity: str
    """The one of the two identities that fingerprints under the root contain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedModel:
    """A model that a run uses."""

    known: KnownModel
    source: str
    """Name of exactly what was found this time, as of `Model.source`."""
    pinned: str
    """Name by which workers find the same content."""

    @property
    def identity(self) -> str:
        """Identity that fingerprints contain."""
        return self.known.identity


@dataclass(frozen=True, slots=True, kw_only=True)
class RunModels:
    """Models of a run, by use."""

    generator: UsedModel | None
    """None for a run without a generator."""
    retriever: UsedModel | None
    reranker: UsedModel
    adapter: UsedModel

    def pinned(self, config: RunConfig) -> RunConfig:
        """Return the run's configuration with model names that mean the same content on every node, permanently."""
        generator = self.generator.pinned if self.generator else ""
        retriever = self.retriever and self.retriever.pinned
        return _with_models(config, generator, retriever, self.reranker.pinned, self.adapter.pinned)

    def record(self, root: str) -> None:
        """Write the root's records of the models.

        Raises:
            StorageError: another run has just recorded a different identity.
        """
        for used in (self.generator, self.retriever, self.reranker, self.adapter):
            if used is not None and is_content(used.known.content):
                _record(root, used)


def models_of(config: RunConfig) -> RunModels:
    """Return the models of a run; a model in an object store that the root has no record of is fetched.

    Raises:
        ModelError: a model is missing.
    """
    known: list[KnownModel] = []

    def find(spec: str, *, with_weights: bool = True) -> UsedModel:
        used = _find(config.storage.root, spec, known, with_weights=with_weights)
        known.append(used.known)
        return used

    encoder, model = config.retrieve.encoder, config.generator.model
    return RunModels(
        # An endpoint's model is only used for its tokenizer.
        generator=find(model, with_weights=config.generator.engine == "vllm") if model else None,
        retriever=None if encoder is None else find(encoder),
        reranker=find(config.reranker.base.encoder),
        adapter=find(config.adapter.base.encoder),
    )


def without_pins(config: RunConfig) -> RunConfig:
    """Return a configuration with the models' places alone, since other settings identify their content."""
    places = [open_model(each).place if each else "" for each in (config.generator.model, config.reranker.base.encoder)]
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
    """Return the root's record of a model that is neither cached nor reachable; None where runs never used it.

    The record suffices to read the stages that those runs computed.
    """
    for each in _records(root):
        if each.place == model.place:
            return each
    former = model.former_identity()
    if former is not None and any(_names(each, former) for each in _traces(root)):
        return KnownModel(place=model.place, content="", former=former, identity=former)
    return None


def _settle(root: str, model: Model, content: str, others: Sequence[KnownModel]) -> KnownModel:
    """Return a new record of a model that no run under the root has recorded."""
    own = KnownModel(place=model.place, content=content, former=None, identity=content)
    if not is_content(content):
        return own
    traces = list(_traces(root))
    former = model.former_identity() if traces else None
    # Records are read after the traces: every run writes its records before it leaves a trace.
    recorded = [*others, *_records(root)]
    for each in recorded:
        if each.content == content:
            return each
    own = replace(own, former=former)
    is_used = former is not None and any(_names(each, former) or _names(each, model.place) for each in traces)
    # A former name belongs to the first model that is found by it.
    if is_used and not any(_have_one_name(own, each) for each in recorded):
        return replace(own, identity=former or content)
    return own


def _have_one_name(first: KnownModel, second: KnownModel) -> bool:
    """Return whether two models of the same use shared a place or a former identity."""
    is_same_use = len(first.content) == len(second.content)
    return is_same_use and (first.place == second.place or first.former == second.former)


def _names(trace: bytes, name: str) -> bool:
    return json.dumps(name, ensure_ascii=False).encode() in trace


def _traces(root: str) -> Iterator[bytes]:
    """Yield the recorded settings of runs and complete stages under a root."""
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
        return KnownModel(**unsealed(content))
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"a record of a model is damaged ({error}): restore the folder `{MODELS}` of the root from a backup, or "
            "remove it; models are then identified by their content alone"
        ) from error


def _record(root: str, used: UsedModel) -> None:
    content = sealed_json(asdict(used.known))
    for key in filter(None, (used.known.content, used.source)):
        if not storage.write_new(_location(root, key), content) and not _agrees(root, key, used):
            raise StorageError(f"another run under {root} has just recorded {used.known.place}: run again")


def _agrees(root: str, key: str, used: UsedModel) -> bool:
    recorded = _read(root, key)
    return recorded is not None and recorded.identity == used.identity


def _location(root: str, key: str) -> str:
    return storage.join(root, MODELS, f"{fingerprint('model', 1, {}, [key])}.json")
