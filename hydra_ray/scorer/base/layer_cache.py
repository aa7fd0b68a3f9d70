"""Cache of the hidden states after an encoder's lower layers, shared by all encoders that have the same layers.

The bases of a cross-fitted run differ in the upper layers, which were trained. The layers below are the same in all of
them and after all epochs, and most of the work.

Shape suffixes: T texts of a batch, L tokens of the longest, H the encoder's width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Text = tuple[str, str | None]
"""Single text, or the two texts of a pair."""
MAX_BYTES = 2 << 30
"""Size of the cached states: about 1.4 million tokens of an encoder of width 384."""


class HiddenStateCache:
    """Hidden states of texts after the lower layers, up to a number of bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._free = self._max_bytes = max_bytes
        self._states: dict[Text, torch.Tensor] = {}

    def __contains__(self, text: Text) -> bool:
        return text in self._states

    def keep(self, texts: Sequence[Text], states_TLH: torch.Tensor, mask_TL: torch.Tensor) -> None:
        """Store the states of these texts as long as there is room."""
        mask_TL = mask_TL.bool()
        # One copy for the batch: each would wait for a GPU to finish.
        whole = states_TLH.detach()[mask_TL].cpu().split(mask_TL.sum(1).tolist())
        for text, states in zip(texts, whole, strict=True):
            if text not in self._states and states.nbytes <= self._free:
                self._states[text] = states.clone()
                self._free -= states.nbytes

    def states(self, texts: Sequence[Text], mask_TL: torch.Tensor) -> torch.Tensor:
        """Return the cached states of texts (T, L, H); 0 where the mask is 0."""
        kept = torch.cat([self._states[text] for text in texts]).to(mask_TL.device)
        states_TLH = kept.new_zeros(*mask_TL.shape, kept.shape[-1])
        states_TLH[mask_TL.bool()] = kept
        return states_TLH

    def clear(self) -> None:
        """Remove all states."""
        self._states.clear()
        self._free = self._max_bytes


class LowerLayers:
    """Lower layers of one encoder, which are skipped for texts whose states are cached."""

    def __init__(self, encoder: PreTrainedModel, num_layers: int, cache: HiddenStateCache) -> None:
        """Wrap the encoder's first `num_layers` layers, at least one; they must not be trained."""
        self._cache = cache
        self._given: torch.Tensor | None = None
        self._seen: Any = None
        layers = layers_of(encoder)[:num_layers]
        for layer in layers:
            # The layer's function is replaced, not the layer: the encoder's weights keep their names.
            layer.forward = partial(self._forward, layer.forward)
        layers[-1].register_forward_hook(self._see)

    def known(self, texts: Sequence[Text]) -> list[bool]:
        """Return for each text whether its states are cached."""
        return [text in self._cache for text in texts]

    def run(self, encode: Callable[[], torch.Tensor], texts: Sequence[Text], mask_TL: torch.Tensor) -> torch.Tensor:
        """Return the output of `encode` for a batch of texts, which are all cached before or all cached afterwards."""
        if all(self.known(texts)):
            self._given = self._cache.states(texts, mask_TL)
        try:
            encoded = encode()
            # Layers that return more than their states do not occur in encoders; their states would not be cached.
            if self._given is None and isinstance(self._seen, torch.Tensor):
                self._cache.keep(texts, self._seen, mask_TL)
        finally:
            self._given = self._seen = None
        return encoded

    def _forward(self, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return forward(*arguments, **options) if self._given is None else self._given

    def _see(self, layer: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG002
        self._seen = output


def layers_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """Return the encoder's layers, the lowest first."""
    return list(max((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), key=len))


def num_equal_layers(encoders: Sequence[PreTrainedModel]) -> int:
    """Return the number of lowest layers that are equal in all encoders; 0 where the embeddings below them differ."""
    stacks = [layers_of(encoder) for encoder in encoders]
    above = {id(parameter) for layer in stacks[0] for parameter in layer.parameters()}
    names = [name for name, parameter in encoders[0].named_parameters() if id(parameter) not in above]
    states = [encoder.state_dict() for encoder in encoders]
    if not all(torch.equal(states[0][name], state[name]) for state in states[1:] for name in names):
        return 0
    for number, same in enumerate(zip(*stacks, strict=True)):
        first, *others = (layer.state_dict() for layer in same)
        if not all(torch.equal(tensor, other[name]) for other in others for name, tensor in first.items()):
            return number
    return len(stacks[0])
