"""A page as a browser would read it: nested properly, with its elements, attributes and text."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}
PARENTS = {"li": {"ul", "ol"}, "tr": {"thead", "tbody"}, "dt": {"dl"}, "dd": {"dl"}, "th": {"tr"}, "td": {"tr"}}
PARENTS |= {"caption": {"table"}, "thead": {"table"}, "tbody": {"table"}, "figcaption": {"figure"}}
PARENTS |= {"summary": {"details"}}
PHRASING = {"p", "h1", "h2", "h3", "span", "strong", "small", "code", "pre", "summary", "a", "dt", "caption", "title"}
"""Elements that hold words; a browser closes some of them where a block begins."""
BLOCKS = {"p", "div", "table", "ul", "dl", "pre", "figure", "details", "section", "article", "blockquote", "h2", "h3"}


class ParsedPage(HTMLParser):
    """Elements, attributes and text of a page; elements that are not nested properly fail."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._keep(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._keep(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a page has no comments, and here is {data!r}")

    def _keep(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), attrs
        assert not (tag in BLOCKS and PHRASING & set(self.open)), (tag, self.open)
        assert tag not in PARENTS or self.open[-1] in PARENTS[tag], (tag, self.open)
        self.tags.append(tag)
        self.attributes.extend(attrs)
