"""HTML pages: what they make of Markdown; numbers never break across lines, prose does."""

import re
from pathlib import Path

import pandas as pd

from paper_figures.pages import fill
from paper_figures.pages.html import html
from paper_figures.tables import markdown

_LONG = "the delay of a layer follows from the structure of the network alone"


def _page(text: str) -> str:
    return html(f"# Title\n\n{text}\n", Path())


def _classes(**columns: list[str]) -> dict[str, set[str]]:
    """Column -> the classes of its heading and of its cells; '' is none."""
    page = _page(markdown(pd.DataFrame(columns)))
    cell = re.compile(r'<t[hd](?: scope="col")?(?: class="(\w+)")?>')
    rows = [cell.findall(row) for row in re.findall(r"<tr>.*?</tr>", page)]
    assert len(rows) == 1 + len(next(iter(columns.values())))
    return dict(zip(columns, map(set, zip(*rows, strict=True)), strict=True))


def test_columns_are_styled_by_what_they_hold() -> None:
    found = _classes(
        statement=[_LONG, "short"],
        difference=["-0.22 [-1.35, +0.90]", "–"],
        accuracy=["94.22 ± 0.38 (n=3)", "3 of 3 diverged"],
        schedule=["1F1B", "GPipe"],
        device=["128 × 128, output stationary, all of 1 GHz", "FLOP/s only"],
    )
    assert found == {
        "statement": {"prose"},
        "difference": {"number"},
        "accuracy": {"number"},
        "schedule": {""},
        "device": {"prose"},
    }


def test_an_empty_table_has_no_classes() -> None:
    assert _classes(n=[], verdict=[]) == {"n": {""}, "verdict": {""}}


def test_text_is_escaped_and_figures_lie_within_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text("<svg/>")
    page = html("# T & 'U'\n\n**Lead.** a < `b`\n\n- one\n- two\n\n![See](a.svg)\n\n*See*\n\nend\n", tmp_path)
    assert "<title>T &amp; &#x27;U&#x27;</title>" in page
    assert "<p><strong>Lead.</strong> a &lt; <code>b</code></p>\n<ul>\n<li>one</li>\n<li>two</li>\n</ul>\n" in page
    image = '<img src="data:image/svg+xml;base64,PHN2Zy8+" alt="See">'
    assert f'<figure><div class="wide">{image}</div><figcaption>See</figcaption></figure>\n<p>end</p>' in page
    assert markdown(pd.DataFrame({"a|b": ["|x|"]})).endswith("| \\|x\\| |\n")
    assert "<td>|x|</td>" in _page(markdown(pd.DataFrame({"a": ["|x|"]})))


def test_lines_of_a_paragraph_are_joined_and_others_are_not(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "t.md").write_text("# A\n\none\ntwo\n\n- three\n  four\n- five\n\n{{ table }}\n")
    monkeypatch.setattr("paper_figures.pages.TEMPLATES", tmp_path)
    assert fill("t.md", {"table": "| a |\n| b |"}) == "# A\n\none two\n\n- three four\n- five\n\n| a |\n| b |\n"
