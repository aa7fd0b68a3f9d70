"""Every error that hydra_ray raises on purpose.

One root; each subclass is also the standard error a caller would expect, takes one string (what was got, what was
expected, where, what to do) and therefore survives pickling between Ray processes.
"""


class HydraError(Exception):
    """Root of all errors whose cause a user can act on; the command line prints its message without a traceback."""


class ConfigError(HydraError, ValueError):
    """A setting is missing, unknown or out of range."""


class MissingPackageError(HydraError, ModuleNotFoundError):
    """A package that the command or the run needs is not installed here: an extra of this one has it."""


class InputError(HydraError, ValueError):
    """A file that a user handed in cannot be read as what it was said to be."""


class StorageError(HydraError, OSError):
    """A table or file of a run is missing, unreadable or has an unexpected schema."""


class DamagedError(StorageError):
    """A table or file of a run is there, but cut off or changed: it must be made again."""


class GenerationError(HydraError, RuntimeError):
    """The generator failed as a whole, or too many of its requests did."""


class EndpointError(GenerationError):
    """The endpoint of the generator is dead or refuses everything: another engine would fare no better."""


class BudgetError(HydraError, RuntimeError):
    """What a run may cost is used up."""


class WorkerError(HydraError, RuntimeError):
    """Workers or nodes of the cluster died, and their work could not be done by others."""


class ModelError(HydraError, LookupError):
    """A model is not where its name says, or cannot be used."""


class FeatureError(HydraError, ValueError):
    """Features are not numbers that a head can be fitted on."""


class HeadMismatchError(HydraError, ValueError):
    """Heads were fitted on another base than the one that is to use them."""


class TrainingError(HydraError, RuntimeError):
    """Training a base or fitting heads did not produce a usable result."""


class ClusterError(HydraError, ConnectionError):
    """A Ray cluster cannot be started, connected to, or submitted to."""


class SubmissionAddressError(ClusterError):
    """What should be a cluster's own address is one to which jobs are submitted."""
