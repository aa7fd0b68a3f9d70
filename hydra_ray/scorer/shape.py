"""What a base is apart from its weights, and where its files are; importable without torch."""

from dataclasses import dataclass
from typing import Literal

Interaction = Literal["pair", "bilinear"]
"""pair: the two texts are encoded together. bilinear: each alone, for closed label sets."""
DESCRIPTION = "base.json"
"""Name of a base's description, which is written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """What a base is, apart from its weights."""

    interaction: Interaction
    plain_names: tuple[str, ...]
    width: int
    """Learned features a candidate."""
    max_text_tokens: int
