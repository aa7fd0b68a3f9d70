"""Compared systems: names, order, titles, and the pairs whose differences are reported."""

from hydra_ray.config import RunConfig, Task

HYDRA = "hydra"
ORACLE = "oracle"
RAG = "rag_k"
PROMPT_SYSTEMS = ("zero_shot", "random_k", "rag_1", "rag_2", RAG, "pag_0", "pag_1", "pag_k")
"""Systems that only prompt the generator."""
COUNTING_SYSTEMS = ("constant", "majority", "mean_rating", "knn", "rag_cut", "vote")
"""Systems that only count existing outputs or answers, or their words."""
RECORD_SYSTEMS = ("text_only", "records_only", "own_heads")
"""Systems that learn from all users' records and ask no generator. Own heads are taken even where the gain that
histories predict is not above zero."""
VARIANTS = ("reranker_only", "adapter_only", "hydra_shared", "hydra_routed", "hydra_personal", "hydra_shuffled")
"""Parts of HYDRA, HYDRA with heads of one kind only, and its control."""
SYSTEMS = (*PROMPT_SYSTEMS, *COUNTING_SYSTEMS, *RECORD_SYSTEMS, *VARIANTS, HYDRA, ORACLE)
"""All systems that may be compared, in display order."""

FURTHER_PAIRS = (
    ("hydra_personal", "hydra_shared"),
    ("hydra_personal", "hydra_shuffled"),
    ("hydra_personal", "hydra_routed"),
    ("hydra_personal", "adapter_only"),
    ("hydra_routed", "hydra_shared"),
    ("adapter_only", RAG),
    ("reranker_only", RAG),
    (RAG, "zero_shot"),
    (RAG, "random_k"),
    ("pag_k", RAG),
    ("records_only", "text_only"),
    ("own_heads", "records_only"),
)
"""Pairs of systems compared in addition to HYDRA and each other one: each isolates the effect of one component."""
CONTROL_PAIRS = FURTHER_PAIRS[:2]
"""Pairs that differ only in whose heads choose."""


def system_titles(task: Task, config: RunConfig) -> dict[str, str]:
    """Return the displayed name of each system."""
    num_samples, k = config.drafts.num_samples, config.drafts.num_records
    return {
        "zero_shot": "Zero-shot",
        "random_k": f"Random k={k}",
        "rag_1": "RAG k=1",
        "rag_2": "RAG k=2",
        RAG: f"RAG k={k}",
        "pag_0": "Profile k=0",
        "pag_1": "Profile k=1",
        "pag_k": f"Profile k={k}",
        "constant": "First candidate" if task.kind == "preference" else "Constant",
        "majority": "User's majority",
        "mean_rating": "User's mean rating",
        "knn": "Nearest records",
        "rag_cut": f"RAG k={k}, cut to the usual length",
        "vote": f"Vote of {num_samples}" if task.is_closed else f"Consensus of {num_samples}",
        "text_only": "Text alone",
        "records_only": "Records, no generator",
        "own_heads": "Records and own heads, no generator",
        "reranker_only": "Reranker only",
        "adapter_only": "Adapter only",
        "hydra_shared": "HYDRA, shared head",
        "hydra_routed": "HYDRA, routed shared heads",
        "hydra_personal": "HYDRA, personal heads",
        "hydra_shuffled": "HYDRA, shuffled heads",
        HYDRA: "HYDRA",
        ORACLE: "Oracle best of drafts",
    }


def same_prompts(num_records: int) -> frozenset[str]:
    """Return the systems whose prompts are those of another one, where `num_records` records stand in a prompt."""
    return frozenset({f"rag_{num_records}", f"pag_{num_records}"} & {*SYSTEMS})


def compared_pairs(present: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs of `present` systems whose differences are reported, HYDRA and each other one first."""
    pairs = [(HYDRA, other) for other in present if other != HYDRA]
    return pairs + [(first, second) for first, second in FURTHER_PAIRS if first in present and second in present]
