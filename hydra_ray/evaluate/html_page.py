"""What all pages have in common: one self-contained file with a heading, links to its sections, and the style."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSection:
    """A part of a page that a link leads to. Key: name."""

    name: str
    """The identifier of its heading, unique on the page."""
    title: str
    html: str
    """What stands below the heading."""


def render_shell(
    *, title: str, subtitle: str, headline: str, lead: str, opening: str, sections: Sequence[PageSection]
) -> str:
    """A whole page, which asks for nothing outside itself.

    Args:
        title, subtitle, headline, lead: plain text.
        opening: HTML that stands before the first section: what is to be seen first.
    """
    folder = files("hydra_ray.evaluate")
    links = (f'<a href="#{section.name}">{escape(section.title)}</a>' for section in sections)
    blocks = (f'<h2 id="{section.name}">{escape(section.title)}</h2>\n{section.html}' for section in sections)
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=folder.joinpath("style.css").read_text(encoding="utf-8"),
        links="".join(links),
        subtitle=escape(subtitle),
        headline=escape(headline),
        lead=escape(lead),
        content="\n".join([opening, *blocks]),
    )


def figure(title: str, note: str, svg: str) -> str:
    """A plot with its caption."""
    return f"<figure><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>{svg}</figure>"


def folded(summary: str, html: str) -> str:
    """What is shown only when it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def tile(title: str, value: str, note: str) -> str:
    """One large figure; all plain text."""
    return f"<div><span>{escape(title)}</span><strong>{escape(value)}</strong><small>{escape(note)}</small></div>"
