"""Makes the site of pages that also read well in the repository.

A link that leaves docs/ leads to a file of the repository. Results (paper_figures/out) join the site and its menu, and
so do tables and code that a page links to; of any other file only the path stays. Under each figure stands its commit.
"""

import os
import re
from pathlib import Path

import commits
import schedule
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUT = ROOT / "paper_figures" / "out"
LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)")
LEFT = re.compile(r"\[([^]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages of results that the menu doesn't name to the end of its results: those of claims, under their keys."""
    named, results = str(config.nav), next(item["Results"] for item in config.nav if "Results" in item)
    pages = sorted(path.relative_to(OUT).as_posix() for path in OUT.rglob("*.md") if path.parent.name != "tables")
    more = [f"out/{name}" for name in pages if f"'out/{name}'" not in named and not name.startswith("experiments/")]
    claims = [name for name in more if name.startswith("out/report/C")]
    results += [name for name in more if name not in claims]
    results.append({"Claim by claim": [{Path(name).stem: name} for name in claims]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages, figures and tables of results, and find the figures' commits."""
    config.extra["commits"] = commits.of_figures(ROOT, OUT.relative_to(ROOT).as_posix())
    for path in sorted(OUT.rglob("*")):
        if path.suffix in (".csv", ".svg") or (path.suffix == ".md" and path.parent.name != "tables"):
            files.append(File.generated(config, f"out/{path.relative_to(OUT)}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Add the figures' commits, lead links to results into the site, and turn other links out of docs/ into paths."""
    folder = Path(config.docs_dir, page.file.src_uri).parent
    markdown = commits.added(markdown, Path(str(page.file.abs_src_path)).parent, config.extra["commits"])

    def inside(match: re.Match[str]) -> str:
        path = (folder / match[1]).resolve()
        uri = _uri(path, page.file.src_uri, config, files)
        return f"]({os.path.relpath(Path(config.docs_dir, uri), folder)}" if uri else match[0]

    def outside(match: re.Match[str]) -> str:
        path = (folder / match[2]).resolve()
        if path.is_relative_to(config.docs_dir):
            return match[0]
        shown = str(path.relative_to(ROOT))
        return f"`{shown}`" if match[1] == shown else f"{match[1]} (`{shown}`)"

    return LEFT.sub(outside, LINK.sub(inside, markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the schedule that moves where the page has its mark."""
    return html.replace(schedule.MARK, schedule.html()) if schedule.MARK in html else html


def _uri(path: Path, page: str, config: MkDocsConfig, files: Files) -> str:
    """Where the site has a file of the repository; empty if nowhere. A table or code joins it, code as text."""
    for folder, place in ((Path(config.docs_dir), "."), (OUT, "out")):
        if path.is_relative_to(folder):
            return Path(place, path.relative_to(folder)).as_posix()
    if not path.exists():
        raise PluginError(f"{page}: a link leads to {path.relative_to(ROOT)}, which does not exist")
    if path.suffix not in (".csv", ".py"):
        return ""
    uri = path.relative_to(ROOT).as_posix() + (".txt" if path.suffix == ".py" else "")
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return uri
