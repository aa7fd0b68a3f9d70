"""Errors that hydra_ray raises on purpose.

All derive from one root; each subclass also derives from the standard error that a caller would expect, takes one
string (got, expected, where, what to do) and therefore survives pickling between Ray processes.
"""


class HydraError(Exception):
    """Root of all errors that a user can act on; the command line prints the message without a traceback."""


class ConfigError(HydraError, ValueError):
    """A setting is missing, unknown or out of range."""


class MissingPackageError(HydraError, ModuleNotFoundError):
    """A package that the command or the run needs is not installed; one of this package's extras has it."""


class InputError(HydraError, ValueError):
    """An input file cannot be read in the format that it should have."""


class NothingNewError(InputError):
    """What is handed in to an update is there already."""


class StorageError(HydraError, OSError):
    """A table or file of a run is missing, unreadable or has an unexpected schema."""


class DamagedError(StorageError):
    """A table or file of a run is truncated or corrupt and must be computed again."""


class GenerationError(HydraError, RuntimeError):
    """The generator failed as a whole, or too many of its requests did."""


class EndpointError(GenerationError):
    """The generator's endpoint is dead or refuses every request, so that restarting the engine would not help."""


class ReplyError(HydraError, ValueError):
    """A reply of an endpoint holds no answer that can be used; a call fails with it, never a run."""


class BrokenOffError(ReplyError):
    """A server broke its reply off and says so; a later call may be answered."""


class BudgetError(HydraError, RuntimeError):
    """The budget of a run is used up."""


class WorkerError(HydraError, RuntimeError):
    """Workers or nodes of the cluster died, and no others could do their work."""


class ModelError(HydraError, LookupError):
    """A model is not at the given place, or cannot be used."""


class FeatureError(HydraError, ValueError):
    """Features hold values that are not finite numbers."""


class HeadMismatchError(HydraError, ValueError):
    """Heads were fitted on a different base from the one that is to use them."""


class TrainingError(HydraError, RuntimeError):
    """Training a base or fitting heads did not produce a usable result."""


class ClusterError(HydraError, ConnectionError):
    """A Ray cluster cannot be started, connected to, or submitted to."""


class SubmissionAddressError(ClusterError):
    """A dashboard's address, for submitting jobs, was given where a cluster's own address is needed."""


def shortened(text: str, max_characters: int) -> str:
    """Return a text for an error, cut where it is longer."""
    return text if len(text) <= max_characters else f"{text[:max_characters]}..."
