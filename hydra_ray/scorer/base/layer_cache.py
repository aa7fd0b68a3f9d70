"""What an encoder's lower layers give for texts, kept for all encoders that have these layers.

The bases of a cross-fitted run differ in the upper layers, which were trained. The layers below are the same in all of
them and after all epochs, and most of the work.

Letters in shape suffixes: N texts of a batch, L tokens of the longest, H the encoder's width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

Text = tuple[str, str | None]
"""A text, or the two texts of a pair."""
MAX_BYTES = 2 << 30
"""Of the states that are kept: about 1.4 million tokens of an encoder of width 384."""


class HiddenStateCache:
    """States of texts after the lower layers."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._free = self._max_bytes = max_bytes
        self._states: dict[Text, torch.Tensor] = {}

    def __contains__(self, text: Text) -> bool:
        return text in self._states

    def keep(self, texts: Sequence[Text], states_NLH: torch.Tensor, mask_NL: torch.Tensor) -> None:
        """Keep the states of these texts as long as there is room."""
        for text, states, mask in zip(texts, states_NLH.detach(), mask_NL.bool(), strict=True):
            num_bytes = int(mask.sum()) * states[0].nbytes
            if text not in self._states and num_bytes <= self._free:
                self._states[text] = states[mask].cpu()
                self._free -= num_bytes

    def states(self, texts: Sequence[Text], mask_NL: torch.Tensor) -> torch.Tensor:
        """The states (N, L, H) of texts that were kept; 0 where the mask is."""
        kept = torch.cat([self._states[text] for text in texts]).to(mask_NL.device)
        states_NLH = kept.new_zeros(*mask_NL.shape, kept.shape[-1])
        states_NLH[mask_NL.bool()] = kept
        return states_NLH

    def clear(self) -> None:
        """Forget all."""
        self._states.clear()
        self._free = self._max_bytes


class LowerLayers:
    """The lower layers of one encoder, which do nothing for texts whose states the trunk has."""

    def __init__(self, encoder: PreTrainedModel, num_layers: int, cache: HiddenStateCache) -> None:
        """Put itself before the encoder's first `num_layers` layers, at least one; they must not be trained."""
        self._cache = cache
        self._given: torch.Tensor | None = None
        self._seen: Any = None
        layers = layers_of(encoder)[:num_layers]
        for layer in layers:
            # Not the layer is replaced but its function: the encoder's weights keep their names.
            layer.forward = partial(self._forward, layer.forward)
        layers[-1].register_forward_hook(self._see)

    def known(self, texts: Sequence[Text]) -> list[bool]:
        """Which texts' states the trunk has."""
        return [text in self._cache for text in texts]

    def run(self, encode: Callable[[], torch.Tensor], texts: Sequence[Text], mask_NL: torch.Tensor) -> torch.Tensor:
        """What `encode` makes of a batch of these texts, which are all known or all kept from now on."""
        if all(self.known(texts)):
            self._given = self._cache.states(texts, mask_NL)
        try:
            encoded = encode()
            # Layers that give more than their states are not known in encoders; their states would not be kept.
            if self._given is None and isinstance(self._seen, torch.Tensor):
                self._cache.keep(texts, self._seen, mask_NL)
        finally:
            self._given = self._seen = None
        return encoded

    def _forward(self, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return forward(*arguments, **options) if self._given is None else self._given

    def _see(self, layer: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG002
        self._seen = output


def layers_of(encoder: PreTrainedModel) -> list[nn.Module]:
    """The encoder's layers, the lowest first."""
    return list(max((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), key=len))


def num_equal_layers(encoders: Sequence[PreTrainedModel]) -> int:
    """How many of the lowest layers are the same in all of these encoders; 0 where what is below them is not."""
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
