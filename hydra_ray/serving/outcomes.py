"""What a request to a served export is answered with."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_ray.conversations import Conversation
from hydra_ray.rows import Draft, Probe

Given = Sequence[str | Conversation | Draft | Probe]
"""Drafts of an answer as callers give them."""
QUERY_ID = "query"
"""Id of the one query of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of the candidates for a query by the user's head."""

    head: str
    """Name of the kind of the user's head; "shared" for a user without a code."""
    by_answer: dict[str, float]
    """Score of each candidate answer, higher is better: every label of a closed task; each given candidate of a
    preference task; of a text task each distinct draft, and its truncated versions if the run used these
    (`drafts.has_cuts`). Without a generator they are log probabilities.
    """
    choice: str | None
    """Answer with the highest expected quality; None without candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Answer that is chosen among drafts."""

    answer: str | None
    """None where nothing that was given can be an answer; then `error` says why."""
    error: str | None
    system: str
    """System that the gate chose for the data set, whose answer this is: "hydra_personal" (own heads), "hydra_shared",
    or a prompt's greedy answer, "rag_k" or "zero_shot"."""
    reason: str
    """Reason of the gate's choice: the qualities or losses that it compared."""
    by_answer: dict[str, float]
    """Score of each candidate by the head that chose, higher is better; empty where no head did."""
