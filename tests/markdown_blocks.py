"""Blocks of code, links and headings of Markdown texts."""

import re
import unicodedata
from dataclasses import dataclass

_FENCED = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]+`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a text."""
    return [Block(found["language"], found["text"]) for found in _FENCED.finditer(text)]


def links_of(text: str) -> list[str]:
    """The targets of links and pictures outside of code."""
    return _LINK.findall(_CODE.sub("", _FENCED.sub("", text)).replace("[]", ""))


def anchors_of(text: str) -> set[str]:
    """The anchors that a text's headings get, by the rule of the site's builder."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCED.sub("", text), flags=re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        number = 0
        while (anchor := f"{slug}_{number}" if number else slug) in anchors:
            number += 1
        anchors.add(anchor)
    return anchors
