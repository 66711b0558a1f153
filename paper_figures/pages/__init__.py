"""Pages: a template in Markdown filled from records, and the one writer of everything that belongs to a page."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from layerpipe2.lab.runs.records import writable_folder, write_json, write_text
from paper_figures import style
from paper_figures.pages.html import html
from paper_figures.tables import markdown
from paper_figures.verdicts import Verdict, words_by_name

TEMPLATES = Path(__file__).parents[1] / "templates"


@dataclass(frozen=True)
class Page:
    """A page with its figures, tables and verdicts.

    Attributes:
        name: of its files, without suffix.
        template: the file of :data:`TEMPLATES` that makes it.
        content: what the template asks for.
        verdicts: as in ``verdicts.json``.
        figures: file stem -> function that draws the figure.
        csv: file stem -> table that is written with all digits.
        markdown: file stem -> table that is written as text for readers.
    """

    name: str
    template: str
    content: Mapping[str, Any]
    verdicts: Sequence[Verdict]
    figures: Mapping[str, Callable[[], Figure]]
    csv: Mapping[str, pd.DataFrame]
    markdown: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write ``figures/*.svg``, ``tables/*.csv`` and ``.md``, the page twice, and ``verdicts.json``.

        Returns:
            The page in Markdown.

        Raises:
            UserError: if the folder can't be written.
        """
        writable_folder(out / "figures")
        for stem, draw in self.figures.items():
            style.save(draw(), out / "figures" / stem)
        for stem, table in self.csv.items():
            write_text(out / "tables" / f"{stem}.csv", table.to_csv(index=False, lineterminator="\n"))
        for stem, table in self.markdown.items():
            write_text(out / "tables" / f"{stem}.md", markdown(table))
        text = fill(self.template, self.content)
        write_text(out / f"{self.name}.md", text)
        write_text(out / f"{self.name}.html", html(text, out))
        write_json(out / "verdicts.json", words_by_name(self.verdicts))
        return out / f"{self.name}.md"


def fill(template: str, content: Mapping[str, Any]) -> str:
    """A template's Markdown with the content in place; lines of one paragraph are joined."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # the templates are Markdown; HTML is escaped when it is made of that
    )
    templates.filters["table"] = lambda frame: markdown(frame).rstrip("\n")
    templates.filters["bullets"] = lambda sentences: "\n".join(f"- {sentence}" for sentence in sentences)
    templates.globals["figure"] = lambda stem, caption: f"![{caption}](figures/{stem}.svg)\n\n*{caption}*"
    return re.sub(r"(?<=\S)\n *(?=[^\s|#!*<-])", " ", templates.get_template(template).render(content))
