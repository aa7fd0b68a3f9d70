"""Batches under way that a run does not wait for, which would be paid twice or for nothing.

Runs that ask no endpoint look for them too, so that this module imports no client of one.
"""

import logging
from collections.abc import Iterable

from hydra_ray.errors import ConfigError
from hydra_ray.generate.batches.records import MERGED, batches_below, batches_of, listed
from hydra_ray.generate.completion_store import CompletionStore, asker_of
from hydra_ray.runs.stage import Stage

logger = logging.getLogger(__name__)


def require_no_batches(stage: Stage, store: CompletionStore) -> None:
    """Check that no batch of a stage is under way, whose requests would be paid twice if they were asked one by one.

    Raises:
        ConfigError: there is one.
    """
    if left := batches_of(store).under_way(asker_of(stage.name, stage.fingerprint)):
        raise ConfigError(
            f"stage {stage.name}: {listed(left)} of this stage may be under way, and generator.engine is not "
            "openai_batch, so that their requests would be paid twice. Run with generator.engine=openai_batch to wait "
            "for the answers, or first cancel the rest with `hydra-ray stop RUN --cancel`."
        )


def tell_of_former_batches(root: str, former: Iterable[Stage], own: Iterable[Stage]) -> None:
    """Log which batches of a run's former stages are under way, whose answers no stage of it asks for any more."""
    orphaned = {asker_of(each.name, each.fingerprint) for each in former}
    orphaned -= {asker_of(each.name, each.fingerprint) for each in own}
    left = [each for _, each in batches_below(root) if each.asker in orphaned and each.status != MERGED]
    if left:
        logger.warning(
            "%s of this run's former settings may be under way and are paid for, and with these settings nothing asks "
            "for the answers. To collect them, set the former settings back and run again; to cancel them, set these "
            "back, run, and call `hydra-ray stop RUN --cancel`.",
            listed(left),
        )
