"""What a base is apart from its weights, and where its files are; importable without torch."""

from dataclasses import dataclass
from typing import Literal

Interaction = Literal["pair", "bilinear"]
"""pair: the two texts are encoded together. bilinear: each alone, for closed label sets."""
DESCRIPTION = "base.json"
"""Name of a base's description, which is written last."""


def base_name_of(fold: int | None) -> str:
    """Name of the base that learns from the training users of a fold, or of the one that serves all folds."""
    return "base" if fold is None else f"base-{fold}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """What a base is, apart from its weights."""

    interaction: Interaction
    plain_names: tuple[str, ...]
    width: int
    """Learned features a candidate."""
    max_text_tokens: int
