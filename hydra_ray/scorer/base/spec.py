"""Shape of a base and names of its files; importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Interaction = Literal["pair", "bilinear"]
"""Encoding of a (query, candidate): "pair" reads the two texts together, "bilinear" each alone, for closed label sets.
"""
Pooling = Literal["mean", "first"]
"""What stands for an encoded text: the mean of its tokens' last states, or the first token's state."""
DESCRIPTION = "base.json"
"""File name of a base's description, which is written last."""

DESCRIBED: Mapping[str, type | tuple[type, ...]] = {
    "interaction": str,
    "plain_names": list,
    "width": int,
    "max_text_tokens": int,
    "fingerprint": str,
    "files": list,
}
"""Keys of a base's description that it is loaded by, with the types of their values."""


def base_name_of(fold: int | None) -> str:
    """Return the name of the base trained on the training users of a fold, or of the one that serves all folds."""
    return "base" if fold is None else f"base-{fold}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """Everything that defines a base, apart from its weights."""

    interaction: Interaction
    handcrafted_names: tuple[str, ...]
    width: int
    """Number of learned features of a candidate."""
    max_text_tokens: int
    pooling: Pooling = "mean"

    def to_json(self) -> dict[str, Any]:
        """Return the shape as a base's description holds it."""
        return {
            "interaction": self.interaction,
            "plain_names": list(self.handcrafted_names),
            "width": self.width,
            "max_text_tokens": self.max_text_tokens,
            "pooling": self.pooling,
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        """Return the shape in a base's description."""
        return cls(
            interaction=description["interaction"],
            handcrafted_names=tuple(description["plain_names"]),
            width=description["width"],
            max_text_tokens=description["max_text_tokens"],
            pooling=description.get("pooling", "mean"),  # bases of before had no other
        )
