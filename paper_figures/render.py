"""A report as a list of blocks, and the two ways to write it: Markdown and one self-contained HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from paper_figures import tables


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph of text, in which `words` between backticks are code; ``lead`` words in front of it are set bold."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; `words` between backticks are code."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of text."""

    frame: pd.DataFrame


@dataclass(frozen=True)
class Image:
    """A figure by its file stem, with the sentence that says what to see in it."""

    stem: str
    caption: str


Block = Heading | Text | Bullets | Table | Image


def markdown(blocks: Sequence[Block], figures: str = "figures") -> str:
    """The blocks as GitHub-flavoured Markdown; figures are linked as PNG below the folder ``figures``."""
    return "\n\n".join(_markdown(block, figures) for block in blocks) + "\n"


def _markdown(block: Block, figures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text, lead):
            return f"**{lead}** {text}".rstrip() if lead else text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(frame):
            return tables.markdown(frame).rstrip("\n")
        case Image(stem, caption):
            return f"![{caption}]({figures}/{stem}.png)\n\n*{caption}*"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; --quiet: #666; }}
@media (prefers-color-scheme: dark) {{ :root {{ --quiet: #aaa; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 0 auto; padding: 1rem; }}
h1, h2, h3 {{ line-height: 1.2; margin: 2rem 0 .5rem; }}
h2 {{ border-bottom: 1px solid var(--line); padding-bottom: .2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; margin: .5rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }}
th {{ vertical-align: bottom; }}
tr {{ border-bottom: 1px solid var(--line); }}
td {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.prose {{ min-width: 12rem; white-space: normal; }}
td.number, th.number {{ text-align: right; }}
figure {{ margin: 1.5rem 0; }}
figure img {{ width: 100%; min-width: 34rem; height: auto; background: white; }}
figcaption {{ color: var(--quiet); font-size: .9rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def html(blocks: Sequence[Block], svg: Mapping[str, bytes]) -> str:
    """The blocks as one page that needs no network and no other file; ``svg`` holds the figures by stem.

    Wide tables and figures scroll sideways within themselves, so that the text fits a narrow screen.
    """
    title = next(block.text for block in blocks if isinstance(block, Heading))
    return _PAGE.format(title=escape(title), body="\n".join(_html(block, svg) for block in blocks))


def _html(block: Block, svg: Mapping[str, bytes]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text, lead):
            return f"<p>{f'<strong>{escape(lead)}</strong> ' if lead else ''}{_inline(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in items) + "\n</ul>"
        case Table(frame):
            return _html_table(frame)
        case Image(stem, caption):
            source = "data:image/svg+xml;base64," + base64.b64encode(svg[stem]).decode()
            image = f'<div class="wide"><img src="{source}" alt="{escape(caption)}"></div>'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


_PROSE = 40  # characters; a column with a longer cell is wrapped
_NUMBER = re.compile(r"[-+]?\d|–$")  # how the cells of a column begin that is aligned to the right; – is no value


def _column_class(cells: Sequence[str]) -> str:
    """Attribute of a column's cells, by what they all hold; short texts have none."""
    if max(map(len, cells), default=0) > _PROSE:
        return ' class="prose"'
    return ' class="number"' if cells and all(map(_NUMBER.match, cells)) else ""


def _html_table(frame: pd.DataFrame) -> str:
    cells = [[str(value) for value in row] for row in frame.to_numpy()]
    kinds = [_column_class([row[i] for row in cells]) for i in range(frame.shape[1])]
    names = zip(frame.columns, kinds, strict=True)
    head = "".join(f'<th scope="col"{kind}>{escape(str(name))}</th>' for name, kind in names)
    rows = ["".join(f"<td{kind}>{escape(v)}</td>" for v, kind in zip(row, kinds, strict=True)) for row in cells]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
