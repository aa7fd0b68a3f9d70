"""The configuration of a run: one YAML file, checked as a whole before anything starts.

Sections are named after stages. What is computed (every section but `storage`, `budget` and `placement`) is part of the
stages' fingerprints; where it is computed, and for how much, is not. A dotted override such as `drafts.num_samples=4`
works the same on the command line, in `ray job submit` and in a sweep.
"""

from hydra_ray.config.batch import BatchConfig
from hydra_ray.config.check import check_config, check_settings
from hydra_ray.config.drafts import AnswersConfig, DraftsConfig, PoolConfig
from hydra_ray.config.generator import ApiConfig, GeneratorConfig
from hydra_ray.config.load import apply_override, apply_setting, load_config, read_settings
from hydra_ray.config.placement import BudgetConfig, PlacementConfig
from hydra_ray.config.refresh import RefreshConfig
from hydra_ray.config.report import ReportConfig
from hydra_ray.config.retrieve import ProbesConfig, RetrieveConfig
from hydra_ray.config.run import RunConfig
from hydra_ray.config.scorer import AdapterConfig, BaseConfig, HeadsConfig, ScorerConfig
from hydra_ray.config.section import LabelKey, LabelSelector, Name, ResourceName, RunName, Section
from hydra_ray.config.storage import StorageConfig
from hydra_ray.config.task import Sentences, Task
from hydra_ray.config.update import UpdateConfig
from hydra_ray.config.users import ColumnsConfig, LampConfig, PlantedConfig, UsersConfig

__all__ = [
    "AdapterConfig",
    "AnswersConfig",
    "ApiConfig",
    "BaseConfig",
    "BatchConfig",
    "BudgetConfig",
    "ColumnsConfig",
    "DraftsConfig",
    "GeneratorConfig",
    "HeadsConfig",
    "LabelKey",
    "LabelSelector",
    "LampConfig",
    "Name",
    "PlacementConfig",
    "PlantedConfig",
    "PoolConfig",
    "ProbesConfig",
    "RefreshConfig",
    "ReportConfig",
    "ResourceName",
    "RetrieveConfig",
    "RunConfig",
    "RunName",
    "ScorerConfig",
    "Section",
    "Sentences",
    "StorageConfig",
    "Task",
    "UpdateConfig",
    "UsersConfig",
    "apply_override",
    "apply_setting",
    "check_config",
    "check_settings",
    "load_config",
    "read_settings",
]
