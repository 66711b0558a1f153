"""Pages: templates in Markdown, filled with what the files of the questions have registered for them.

A figure, table, claim or value is a function that a decorator of the page registers. Its parameters name what it needs
of the page's records and values, each of which is made once.
"""

import inspect
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from layerpipe2.errors import UserError, did_you_mean
from layerpipe2.lab.runs.records import writable_folder, write_json, write_text
from paper_figures import style
from paper_figures.text import folded, markdown
from paper_figures.verdicts import Verdict, words_by_name

ROOT = Path(__file__).parent
Make = Callable[..., Any]


class Data(dict[str, Any]):
    """What functions ask for by name: what is known, and values that are made when they are first asked for."""

    def __init__(self, values: Mapping[str, Make], known: Mapping[str, Any]) -> None:
        super().__init__(known)
        self.values_of = values

    def __missing__(self, name: str) -> Any:
        if name not in self.values_of:
            raise UserError(f"nothing on this page is called {name}; {did_you_mean(name, [*self, *self.values_of])}")
        self[name] = self.call(self.values_of[name])
        return self[name]

    def call(self, function: Make) -> Any:
        """Call a function with what its parameters name, but for those that have a default."""
        asked = inspect.signature(function).parameters.values()
        return function(**{one.name: self[one.name] for one in asked if one.default is one.empty})


@dataclass(frozen=True)
class Part:
    """A function that a page shows, under a name.

    Attributes:
        name: a file's stem or a claim's key; it may name data in braces.
        make: the function.
        when: says, from data too, whether it is shown.
        each: ``one in many``: it is shown for every item of the data ``many``, which it takes as ``one``.
        shown: of a table, what makes the text for readers from it (as ``table``) and data; none for a CSV file alone.
        place: of a claim, its place among the others.
        data: of a figure, what it draws: a table of its page, or a file of the repository; else the table of its name.
    """

    name: str
    make: Make
    when: Make = lambda: True
    each: str = ""
    shown: Make | None = None
    place: int = 0
    data: str = ""

    @property
    def code(self) -> Path:
        """The file of its function, from the top folder."""
        return Path(os.path.relpath(inspect.getfile(inspect.unwrap(self.make)), ROOT.parent))

    def expanded(self, data: Data) -> Iterator[tuple[str, Data]]:
        """Yield each name, and the data that belong to it."""
        one, _, many = self.each.partition(" in ")
        for item in data[many] if many else (None,):
            known = Data(data.values_of, data | {one: item}) if one else data
            if known.call(self.when):
                yield self.name.format_map(known), known


@dataclass(frozen=True)
class Built:
    """A page made from records.

    Attributes:
        texts: path without suffix, from the page's folder -> Markdown; the page itself comes first.
        verdicts: as in ``verdicts.json``.
        figures: file stem -> function that draws the figure.
        csv: file stem -> table that is written with all digits.
        markdown: file stem -> table that is written as text for readers.
    """

    texts: Mapping[str, str]
    verdicts: Sequence[Verdict] = ()
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    csv: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    markdown: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All Markdown."""
        return "\n".join(self.texts.values())

    def write(self, out: Path) -> Path:
        """Write ``figures/*.svg``, ``tables/*.csv`` and ``.md``, the page in its parts, and ``verdicts.json``.

        Returns:
            The page in Markdown, or the first of its parts.

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
        for name, text in self.texts.items():
            write_text(out / f"{name}.md", text)
        write_json(out / "verdicts.json", words_by_name(self.verdicts))
        return out / f"{next(iter(self.texts))}.md"


PAGES: dict[str, "Page"] = {}
"""The pages whose records can be read, by name."""


class Page:
    """A page by name; its template ``<name>.md`` lies beside the file that reads its records, or is ``page.md``.

    ``chapters`` are further parts, in their order; their templates lie beside the page's.
    """

    def __init__(self, name: str, *chapters: str) -> None:
        self.name, self.names = name, chapters
        self.template = ROOT / f"{name}.md"
        self.load: Callable[[Path], Mapping[str, Any]] = lambda results: {}
        self.parts: dict[str, list[Part]] = {"figure": [], "table": [], "claim": []}
        self.values: dict[str, Make] = {}

    def records(self, function: Callable[[Path], Mapping[str, Any]]) -> Callable[[Path], Mapping[str, Any]]:
        """Register what reads the page's records, by name, from the folder of all results."""
        self.load, self.template = function, Path(inspect.getfile(function)).with_name(f"{self.name}.md")
        PAGES[self.name] = self
        return function

    def figure(self, name: str, **options: Any) -> Callable[[Make], Make]:
        """Register a function that draws a figure; one that the template doesn't place stands at the page's end."""
        return lambda draw: self._registering("figure", name, options)(style.drawn(draw))

    def table(self, name: str, shown: Make | None = lambda table: table, **options: Any) -> Callable[[Make], Make]:
        """Register a function that makes a table."""
        return self._registering("table", name, options | {"shown": shown})

    def value(self, function: Make) -> Make:
        """Register a function whose result has its name, for the template and for other functions."""
        self.values[function.__name__] = function
        return function

    def claim(self, name: str = "", **options: Any) -> Callable[[Make], Make]:
        """Register a function that judges a claim, or a list of them.

        The docstring of a claim that has a key says it in a paragraph 'Claim: ...', and how it is tested in one
        'Test: ...', with values of the verdict in braces.

        Raises:
            UserError: if such a claim has no test.
        """

        def register(judge: Make) -> Make:
            if not name:
                return self._registering("claim", "", options)(judge)
            said = paragraphs(judge)
            for part in ("Claim", "Test"):
                if not said.get(part):
                    where = f"{judge.__module__}.{judge.__qualname__}"
                    raise UserError(
                        f"claim {name} has no {part.lower()}; write '{part}: ...' in the docstring of {where}"
                    )

            @wraps(judge)
            def judged(*arguments: Any, **named: Any) -> Verdict:
                found: Verdict = judge(*arguments, **named)
                test = " ".join(said[part] for part in found.parts).format(**found.demands)
                return replace(found, key=name, question=said["Claim"], test=test)

            return self._registering("claim", name, options)(judged)

        return register

    def _registering(self, kind: str, name: str, options: Mapping[str, Any]) -> Callable[[Make], Make]:
        def register(function: Make) -> Make:
            self.parts[kind].append(Part(name, function, **options))
            return function

        return register

    def data(self, known: Mapping[str, Any]) -> Data:
        """Give what is known, by name, together with all values."""
        return Data(self.values, known)

    def verdicts(self, data: Data) -> list[Verdict]:
        """Judge all claims, in the order of their places and keys."""
        return [verdict for _, verdict in self.judged(data)]

    def judged(self, data: Data) -> list[tuple[Path, Verdict]]:
        """The file of every claim's function, and the verdict, in the order of :meth:`verdicts`."""
        claims = sorted(self.parts["claim"], key=lambda part: (part.place, len(part.name), part.name))
        found = [(part.code, known.call(part.make)) for part in claims for _, known in part.expanded(data)]
        return [(code, one) for code, some in found for one in (some if isinstance(some, list) else [some])]

    def drawings(self, data: Data) -> dict[str, tuple[Part, Callable[[], Figure]]]:
        """File stem -> the figure's part, and what draws it."""
        found = [(stem, mine, part) for part in self.parts["figure"] for stem, mine in part.expanded(data)]
        return {
            stem: (replace(part, data=part.data.format_map(mine)), partial(mine.call, part.make))
            for stem, mine, part in found
        }

    def build(self, known: Mapping[str, Any], folder: str = "") -> Built:
        """Put the page of these records together; ``folder`` is where it will lie in ``out``.

        Raises:
            UserError: if a figure names data that don't exist.
        """
        data, csv, shown = self.data(known), dict[str, pd.DataFrame](), dict[str, pd.DataFrame]()
        for part in self.parts["table"]:
            for stem, mine in part.expanded(data):
                csv[stem] = mine.call(part.make)
                if part.shown:
                    shown[stem] = Data(self.values, mine | {"table": csv[stem]}).call(part.shown)
                    shown[stem].attrs["csv"] = stem
        drawn, judged = self.drawings(data), self.judged(data)
        verdicts = [verdict for _, verdict in judged]
        home = Place(self.name, drawn, set(csv), Path(folder or ("" if self is report else self.name)))
        values = {"title": self.name.capitalize()} | {name: data[name] for name in {**known, **self.values}}
        values |= {"verdict_table": _overview(verdicts, self), "tables": shown, "figures": drawn}
        template = self.template if self.template.exists() else ROOT / "page.md"
        below, under = (home.below, f"{self.name}/") if self is report else (home, "")
        chapters = dict[str, str]()
        for path in self.chapters:
            claims = [claim for code, claim in judged if code.stem == path.stem]
            chapters[path.stem] = fill(path, values | {"claims": claims}, below)
        chapters = {stem: text for stem, text in chapters.items() if text.strip()}
        texts = {self.name: fill(template, values | {"claims": verdicts, "questions": _answers(chapters)}, home)}
        texts |= {f"{under}{stem}": text for stem, text in chapters.items()}
        for code, claim in judged if self is report else ():
            texts[f"{under}{claim.key}"] = fill(ROOT / "claim.md", {"claim": claim, "code": code}, below)
        unplaced = [stem for stem in drawn if not any(f"figures/{stem}.svg" in text for text in texts.values())]
        texts[self.name] += "".join(f"\n{home.figure(stem, stem.replace('_', ' '))}\n" for stem in unplaced)
        return Built(texts, verdicts, {stem: draw for stem, (_, draw) in drawn.items()}, csv, shown)

    @property
    def chapters(self) -> list[Path]:
        """Templates of further parts: the report has one in the folder of every question that is no page of its own.

        One that comes out empty makes no part.
        """
        if self is not report:
            return [self.template.with_name(f"{name}.md") for name in self.names]
        found = (folder / f"{folder.name}.md" for folder in sorted(ROOT.iterdir()) if folder.name not in PAGES)
        return [path for path in found if path.is_file()]


@dataclass(frozen=True)
class Place:
    """Where a text lies, and what it says under a figure.

    Attributes:
        page: the page's name.
        drawn: file stem -> a figure's part.
        tables: the tables that are written as CSV files.
        folder: of the page, in the folder of all pages.
        up: from the text to that folder.
    """

    page: str
    drawn: Mapping[str, tuple[Part, Any]] = field(default_factory=dict)
    tables: Collection[str] = ()
    folder: Path = Path()
    up: str = ""

    @property
    def below(self) -> "Place":
        """The place of a text in a folder of this one."""
        return replace(self, up=f"{self.up}../")

    def top(self, path: str | Path) -> str:
        """Link to a file of the repository, whose pages lie two folders below its top."""
        return f"{self.up}{'../' * (len(self.folder.parts) + 2)}{Path(path).as_posix()}"

    def figure(self, stem: str, caption: str, read: str = "") -> str:
        """Show a figure that opens in full, what it shows, how to read it, its data, its code and its command."""
        if stem not in self.drawn:
            raise UserError(
                f"page {self.page}: there is no figure {stem} in these records; {did_you_mean(stem, self.drawn)}"
            )
        part, _ = self.drawn[stem]
        name = stem if self.page == "report" else f"{self.page}/{stem}"
        told = [
            self.data(stem, part),
            f"[code]({self.top(part.code)})",
            f"`python -m paper_figures.build figure {name}`",
        ]
        file = f"{self.up}figures/{stem}.svg"
        lines = [
            f"[![{caption}]({file})]({file})",
            f"**{caption}** {read}".rstrip(),
            " · ".join(filter(None, told)),
        ]
        return "\n\n".join([f'<figure markdown="1" id="figure-{stem}">', *lines, "</figure>"])

    def data(self, stem: str, part: Part) -> str:
        """Link to what the figure draws, if that is a file."""
        name = part.data or (stem if stem in self.tables else "")
        if "/" in name:
            return f"[data (CSV)]({self.top(name)})"
        if name and name not in self.tables:
            raise UserError(
                f"page {self.page}: figure {stem} draws the table {name}; {did_you_mean(name, self.tables)}"
            )
        return f"[data (CSV)]({self.up}tables/{name}.csv)" if name else ""


def paragraphs(function: Make) -> dict[str, str]:
    """Read the paragraphs 'Head: text' of a docstring, as text by head."""
    found = (" ".join(text.split()).partition(": ") for text in (inspect.getdoc(function) or "").split("\n\n"))
    return {head: text for head, mark, text in found if mark}


def _overview(verdicts: Sequence[Verdict], page: Page) -> pd.DataFrame:
    if page is report:
        rows = [(f"[{one.key}]({page.name}/{one.key}.md)", one.question, one.word_and_caveat) for one in verdicts]
        return pd.DataFrame(rows, columns=["claim", "statement", "verdict"])
    if any(claim.key for claim in verdicts):
        rows = [(claim.key, claim.question, claim.word_and_caveat) for claim in verdicts]
        return pd.DataFrame(rows, columns=["claim", "statement", "verdict"])
    return pd.DataFrame([(claim.question, claim.word) for claim in verdicts], columns=["question", "answer"])


def _answers(chapters: Mapping[str, str]) -> pd.DataFrame:
    """Link to every chapter by its heading, and what its first paragraph says in bold."""
    rows = []
    for stem, text in chapters.items():
        title, _, rest = text.removeprefix("# ").partition("\n")
        bold = re.search(r"\*\*(.+?)\*\*", rest.strip().partition("\n\n")[0])
        rows.append((f"[{title}]({stem}.md)", bold[1] if bold else ""))
    return pd.DataFrame(rows, columns=["question", "answer"])


def fill(template: Path, content: Mapping[str, Any], place: Place | None = None) -> str:
    """Fill a template's Markdown with the content; lines of one paragraph are joined."""
    place = place or Place(template.stem)
    templates = Environment(
        loader=FileSystemLoader(template.parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,  # the templates are Markdown
    )
    templates.filters["table"] = partial(folded, up=place.up)
    templates.filters["bullets"] = lambda sentences: "\n".join(f"- {sentence}" for sentence in sentences)
    templates.globals |= {"figure": place.figure, "top": place.top}
    return re.sub(r"(?<=\S)\n *(?=[^\s|#!*<-])", " ", templates.get_template(template.name).render(content))


def find_questions() -> dict[str, Page]:
    """Import every file of every question, so that it registers what it shows, and give all pages by name."""
    for path in (ROOT / "report.py", *sorted(ROOT.glob("*/*.py"))):
        import_module(".".join(("paper_figures", *path.relative_to(ROOT).with_suffix("").parts)))
    return PAGES


report = Page("report")
"""The page of the claims, which several questions fill."""
