"""A page's Markdown as one HTML page that needs no network and no other file: figures are within it.

Wide tables and figures scroll sideways within themselves, so that the text fits a narrow screen.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Template
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_PAGE = Path(__file__).with_name("page.html")


_PROSE = 40  # characters; a column with a longer cell is wrapped


_NUMBER = re.compile(r"[-+]?\d|–$")  # how the cells of a column begin that is aligned to the right; – is no value


def html(markdown: str, folder: Path) -> str:
    """The page; figures are linked in the Markdown as SVG, relative to ``folder``."""
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = _with_figures(parser.parse(markdown))
    _classify_columns(tokens)
    body = parser.renderer.render(tokens, parser.options, {"folder": folder})
    template = Template(_PAGE.read_text(encoding="utf-8"), keep_trailing_newline=True)
    page: str = template.render(title=escape(tokens[1].content), body=body.rstrip("\n"))
    return page


def _with_figures(tokens: Sequence[Token]) -> list[Token]:
    """A paragraph that is an image, and the one after it that is its caption, make one figure."""
    found: list[Token] = []
    following = iter(tokens)
    for token in following:
        found.append(token)
        if [child.type for child in token.children or ()] == ["image"]:
            found[-2:] = [Token("figure", "", 0, children=token.children)]  # its paragraph began before it
            for _ in range(4):  # the paragraph's end, and the caption's three tokens
                next(following)
    return found


def _classify_columns(tokens: Sequence[Token]) -> None:
    """Give the cells of a column a class by what they all hold; columns of short texts get none."""
    table: list[list[tuple[Token, str]]] = []
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            table = []
        elif token.type == "tr_open":
            table.append([])
        elif token.type in ("th_open", "td_open"):
            table[-1].append((token, "".join(child.content for child in tokens[place + 1].children or ())))
        elif token.type == "table_close":
            for column in zip(*table, strict=True):
                kind = _column_class([text for _, text in column[1:]])
                for cell, _ in column if kind else ():
                    cell.attrSet("class", kind)


def _column_class(cells: Sequence[str]) -> str:
    if max(map(len, cells), default=0) > _PROSE:
        return "prose"
    return "number" if cells and all(map(_NUMBER.match, cells)) else ""


_TAGS = {
    "table_open": '<div class="wide"><table>\n',
    "table_close": "</table></div>\n",
    "thead_open": "<thead>",
    "tr_open": "<tr>",
    "th_close": "</th>",
    "td_close": "</td>",
}
"""Token -> its HTML; a table stands in a box that scrolls."""


class _Renderer(RendererHTML):
    """Escapes quotes too, and sets figures into the page."""

    def _tag(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _TAGS[tokens[idx].type]

    table_open = table_close = thead_open = tr_open = th_close = td_close = _tag

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """With the name under which GitHub, too, lets links lead to it."""
        name = re.sub(r"[^\w -]", "", tokens[idx + 1].content.lower()).replace(" ", "-")
        return f'<{tokens[idx].tag} id="{name}">'

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return escape(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<code>{escape(tokens[idx].content)}</code>"

    def tr_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</tr>" if tokens[idx + 1].type == "thead_close" else "</tr>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<th scope="col"{self.renderAttrs(tokens[idx])}>'

    def figure(self, tokens: Sequence[Token], idx: int, options: Any, env: Mapping[str, Any]) -> str:
        image = (tokens[idx].children or [])[0]
        caption = escape(image.content)
        svg = (env["folder"] / str(image.attrs["src"])).read_bytes()
        source = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
        picture = f'<div class="wide"><img src="{source}" alt="{caption}"></div>'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n"
