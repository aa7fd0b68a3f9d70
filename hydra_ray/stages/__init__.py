"""The stages of a run: each module that the list names declares one stage or several, and does their work.

To add a stage, write a module with a tuple `STAGES` of definitions (`hydra_ray.stages.definition` says what a stage
declares, such as `asks` where it asks the generator, as candidates, profiles, probes and drafts do) and
add its name to the list.
"""

STAGE_NAMES = (
    "users",
    "candidates",
    "profiles",
    "probes",
    "reranker",
    "drafts",
    "adapter",
    "gate",
    "answers",
    "report",
)
"""Modules of the stages, in the order they run; a stage may read only stages that come before it. The reranker and the
adapter each consist of several stages: examples, base, features and heads."""
