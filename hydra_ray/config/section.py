"""Base class of the configuration's sections, and the types of names that several sections share."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

_PLUGIN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
_NAME, _RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
Name = Annotated[str, StringConstraints(pattern=_NAME, max_length=100)]
RunName = Annotated[str, StringConstraints(pattern=_RUN_NAME, max_length=200)]
Plugin = Annotated[str, StringConstraints(pattern=_PLUGIN, max_length=200)]
"""Function of another package, as `module:name` (`hydra_ray.plugins`)."""


def is_plugin(given: str) -> bool:
    """Return whether a setting names a function of another package, and none of ours."""
    return ":" in given


PATTERN_FORMS: Mapping[str, str] = {
    _NAME: "letters, digits and any of _ . -, a letter or digit first",
    _PLUGIN: "module:name",
    _RUN_NAME: "letters, digits and any of _ . + -, a letter or digit first",
}
"""Patterns in words."""
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
LabelKey = Annotated[str, StringConstraints(pattern=rf"^([a-zA-Z0-9.-]{{1,253}}/)?{_LABEL}$")]
LabelSelector = Annotated[str, StringConstraints(pattern=rf"^!?({_LABEL}|in\({_LABEL}(, ?{_LABEL})*\))$")]
ResourceName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$")]


class Section(BaseModel):
    """Base of all sections: frozen, an unknown key is an error, and the docstring under a field is its description.

    `make docs` makes the page of settings and the JSON Schemas of the descriptions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
