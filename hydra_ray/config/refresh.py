"""The section `refresh`: whose users and histories a refreshed run takes."""

from pydantic import Field

from hydra_ray.config.section import RunName, Section


class RefreshConfig(Section):
    """A refresh of a finished run, as `hydra-ray refresh` writes it; there is no need to write one."""

    of: RunName
    """Name of the finished run whose users are taken, with those of its updates; `lamp` says where they first came
    from, and is not read again."""
    follows: tuple[RunName, ...] = Field(min_length=1)
    """Names of the runs that have everybody's present history, oldest first: the newest update; without any the
    finished run itself and what was added to it by versions that had no updates."""
    taken: str
    """Hash of the users, histories and probes that are taken, by which the same are known again, also once the run
    that they are from is removed."""
