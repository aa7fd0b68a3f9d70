"""The stages of a run. Each is one file, which declares it and does its work; this is the list of them."""

STAGE_NAMES = ("users", "profiles", "probes", "reranker", "drafts", "adapter", "gate", "answers", "report")
"""Modules of this package with a stage, or with several of one use, in the order they run. A stage may read only stages
that come before it."""
