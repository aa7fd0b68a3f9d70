"""Rendering of HTML pages from the templates beside this module; every value is escaped."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).with_name("templates")


def render(template: str, page: object) -> str:
    """Return the HTML of a page.

    Args:
        template: name of a file in templates/.
        page: what the template calls `page`; its attributes are texts and data of `page_parts`.
    """
    return environment().get_template(template).render(page=page)


@cache
def environment() -> "Environment":
    """Return the environment of all templates: values are escaped, and a name that is not defined is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
