"""Makes the site of pages that also read well in the repository.

A link that leaves docs/ leads to a file of the repository. Results (paper_figures/out) join the site; of any other file
only the path stays.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUT = ROOT / "paper_figures" / "out"
LINK = re.compile(r"(!?)\[([^]]*)\]\(((?:\.\./)+[^)#\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages, figures and tables of results."""
    for path in sorted(OUT.rglob("*")):
        if path.suffix in (".md", ".svg") and "tables" not in path.parts:
            files.append(File.generated(config, f"out/{path.relative_to(OUT)}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to results into the site, and turn other links out of docs/ into paths."""
    here = Path(config.docs_dir) / page.file.src_uri

    def inside(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path = (here.parent / target).resolve()
        if path.is_relative_to(Path(config.docs_dir)):
            return match.group()
        if path.is_relative_to(OUT):
            up = "../" * page.file.src_uri.count("/")
            return f"{image}[{text}]({up}out/{path.relative_to(OUT)})"
        shown = str(path.relative_to(ROOT))
        return f"`{shown}`" if text == shown else f"{text} (`{shown}`)"

    return LINK.sub(inside, markdown)
