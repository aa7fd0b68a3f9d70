"""The section `update`: what an update of a finished run builds on."""

from pydantic import Field

from hydra_ray.config.section import RunName, Section


class UpdateConfig(Section):
    """An update of a finished run (`taught_by`), as `hydra-ray update` writes it; there is no need to write one."""

    follows: tuple[RunName, ...] = Field(min_length=1)
    """Names of the runs whose users come back with the update, oldest first: the update before it; of the first update
    the finished run itself and what was added to it by versions that had no updates."""
    handed_in: str
    """Hash of what was handed in, by which the same files are known again."""
    has_queries_alone: bool = False
    """Whether queries alone are answered (`hydra-ray predict`): records are refused, and no update follows."""
    is_feedback: bool = False
    """Whether the files tell what people say of the answers that they were given (`hydra-ray feedback`)."""
