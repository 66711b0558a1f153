"""Prints the results of the built site as one PDF file. Run: make site && python -m docs.pdf; it takes Chromium.

The pages follow each other as in the menu, with folded parts open, but for long tables: a line says what is left out.
Links between pages work in the file; links to what it does not hold, such as tables and code, are text.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FIRST = "out/report.html"
ARTICLE = re.compile(r'<article class="md-content__inner md-typeset">(.*?)</article>', re.DOTALL)
LONG_TABLE = re.compile(r"<details>\s*<summary>(Table of \d+ rows)</summary>.*?</details>", re.DOTALL)
CSV_FILE = re.compile(r'<p><a href="[^"]+">CSV</a></p>')
PAPER = "@page { size: A4; margin: 16mm 15mm; @bottom-center { content: counter(page); font: 8pt sans-serif; } }"
ATTRIBUTE = re.compile(r'(?<=\s)(id|href|src|for|name)="([^"]*)"')


def pages(site: Path) -> list[Path]:
    """The pages of results, in the order of the menu.

    Raises:
        UserError: if there is no site.
    """
    first = site / FIRST
    if not first.is_file():
        raise UserError(f"there is no site in {site}; run: make site")
    _, _, menu = first.read_text(encoding="utf-8").partition('<nav class="md-nav md-nav--primary')
    menu, _, _ = menu.partition("<article")
    links = [(first.parent / link).resolve() for link in re.findall(r'href="([^"#]+\.html)', menu)]
    return [page for page in dict.fromkeys([first.resolve(), *links]) if page.is_relative_to(site.resolve() / "out")]


def printable(site: Path, folder: Path) -> str:
    """All pages of results in one; its figures and styles are named from the folder where it will lie."""
    found = pages(site)
    styles = [*sorted((site / "assets/stylesheets").glob("*.css")), site / "site.css"]
    links = "".join(f'<link rel="stylesheet" href="{os.path.relpath(style, folder)}">\n' for style in styles)
    body = "\n".join(_article(page, found, folder) for page in found)
    head = f'<meta charset="utf-8">\n<title>layerpipe2: the report</title>\n{links}<style>{PAPER}</style>'
    body = f'<body class="one-file" data-md-color-scheme="default">\n<div class="md-content">\n{body}\n</div>\n</body>'
    return f'<!doctype html>\n<html lang="en" dir="ltr">\n<head>\n{head}\n</head>\n{body}\n</html>\n'


def _article(page: Path, found: Sequence[Path], folder: Path) -> str:
    """The text of a page, whose places have names of their own."""

    def place(of: Path, name: str) -> str:
        return f"page-{found.index(of)}" + (f"-{name}" if name else "")

    def moved(match: re.Match[str]) -> str:
        kind, value = match.groups()
        if kind in ("id", "for", "name"):
            return f'{kind}="{place(page, value)}"'
        if kind == "src":
            return f'src="{value if value.startswith("data:") else os.path.relpath(page.parent / value, folder)}"'
        if value.startswith(("http:", "https:")):
            return match[0]
        path, _, name = value.partition("#")
        target = (page.parent / path).resolve() if path else page
        return f'href="#{place(target, name)}"' if target in found else ""

    text = ARTICLE.search(page.read_text(encoding="utf-8"))
    assert text is not None, page
    shown = LONG_TABLE.sub(r"<p>\1: left out here; the site has them, and a CSV file.</p>", CSV_FILE.sub("", text[1]))
    inner = ATTRIBUTE.sub(moved, shown.replace("<details", "<details open"))
    return f'<article class="md-content__inner md-typeset" id="{place(page, "")}">{inner}</article>'


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file.

    Raises:
        UserError: if there is no site or no browser, or the browser fails.
    """
    parser: argparse.ArgumentParser = Parser(prog="python -m docs.pdf", description=__doc__)
    parser.add_argument("--site", type=Path, default=Path("build/site"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/report.pdf"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError("there is no Chromium, which prints the pages; on Debian: apt-get install chromium")
    out, whole = options.out.resolve(), options.out.resolve().with_suffix(".html")
    whole.write_text(printable(options.site, whole.parent), encoding="utf-8")
    new = out.with_suffix(".new.pdf")
    # Chromium has no sandbox in containers and for root; what it opens is this project's own page.
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-pdf-header-footer",
        f"--print-to-pdf={new}",
    ]
    done = subprocess.run([*command, whole.as_uri()], capture_output=True, text=True, check=False)
    whole.unlink()
    if done.returncode or not new.is_file():
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"{browser} printed no pages, and said: {said}")
    new.replace(out)
    print(options.out)


if __name__ == "__main__":
    sys.exit(run_command("docs.pdf", main, None))
