"""README and docs: what they show runs, what they name exists, and the site needs no network."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from bisect import bisect_left
from contextlib import redirect_stdout
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import yaml

import layerpipe2
from docs import commits, pdf, schedule
from layerpipe2 import STRATEGIES, Delays, find_strategy
from layerpipe2.cli import main, make_parser
from layerpipe2.delays import DELAY_LAWS
from layerpipe2.errors import UserError
from tests.advice import advised
from tests.pipeline import processes
from tests.sampling import slow

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
SNIPPETS = {
    str(page.relative_to(ROOT)): code
    for page in PAGES
    if (code := "".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M)))
}
"""Page -> its snippets in one, but for those with the path of a file, which tests/test_recipes.py follows."""
EXPERIMENTS = {f"experiments/{path.name}" for path in (ROOT / "experiments").glob("*.yaml")}.union(
    *(re.findall(r'title="(experiments/.+)"', page.read_text()) for page in PAGES)
)
"""Files that are there, or that a recipe makes."""
COMMANDS = sorted({line for page in PAGES for line in re.findall(r"^\$ (.+?)(?: {2,}#.*)?$", page.read_text(), re.M)})


@advised
@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run_as_they_stand(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(SNIPPETS[page], page, "exec"), scope)
    if "module" in scope:
        assert scope["module"].delays.per_stage == (6, 4, 2, 0)
        assert scope["module"].trainer.global_step == 32
        assert {"train_loss", "val_accuracy"} <= scope["module"].trainer.callback_metrics.keys()
    if "objective" in scope:
        assert {trial.state.name for trial in scope["study"].trials} == {"COMPLETE", "PRUNED"}
        assert len(re.search(r"^def objective.*?\n\n", SNIPPETS[page], re.DOTALL | re.M)[0].split("\n")) - 2 == 10


def printed_by_the_script_on_bert(file):
    with redirect_stdout(StringIO()) as printed:
        runpy.run_path(str(file))["main"](epochs=1)
    return re.findall(r"^([\w-]+) +train_loss (\S+) val_accuracy (\S+)(.*)$", printed.getvalue(), re.M)


@slow
@advised
def test_the_script_on_bert_trains_in_two_processes_as_in_one_and_can_be_advised(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = tmp_path / "bert.py"
    file.write_text(
        re.search(r'^```python title="bert.py"\n(.*?)^```', (DOCS / "howto/bert.md").read_text(), re.S | re.M)[1]
    )
    alone = printed_by_the_script_on_bert(file)
    assert [row[0] for row in alone] == ["stash", "ema-span", "latest"]
    first, second = processes.run(printed_by_the_script_on_bert, 2, file)
    assert [row[:3] for row in first] == [row[:3] for row in alone]
    assert second == []
    stash, average, latest = (float(row[3].split()[0]) for row in first)
    assert stash == pytest.approx(2 * average, rel=0.05)
    assert latest == 0
    monkeypatch.chdir(tmp_path)
    assert main(["advise", "--module", "bert:training", "--steps", "4"]) == 0
    assert "stash keeps" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines_are_those_of_the_programs(command):
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z0-9_]+=", word)]
    if words[0] == "layerpipe2" and words[-1] != "--help":
        parsed: argparse.Namespace = make_parser().parse_args(words[1:])
        assert parsed.command == words[1]
    elif words[0] == "layerpipe2":
        assert words[1] in make_parser().format_help()
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets
        named = re.search(r"EXPERIMENT=(\S+)", command)
        assert named is None or f"experiments/{named[1]}.yaml" in EXPERIMENTS
    else:
        assert words[0] in ("torchrun", "docker", "dvc", "git") or (ROOT / words[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    missing = [
        link
        for link in links
        if not link.startswith(("http", "#")) and not (page.parent / link.partition("#")[0]).exists()
    ]
    assert missing == []


def test_the_page_of_the_library_has_every_public_name():
    page = (DOCS / "reference" / "index.md").read_text()
    assert set(layerpipe2.__all__) <= set(re.findall(r"^::: layerpipe2\.(?:\w+\.)+(\w+)$", page, re.M))


def test_every_strategy_is_explained():
    page = (DOCS / "howto" / "choose-a-strategy.md").read_text()
    assert [name for name in STRATEGIES if f"`{name}`" not in page] == []
    assert all(find_strategy(name) for name in re.findall(r"^\| `([\w.-]+)`", page, re.M))


def test_every_page_is_in_the_menu():
    menu = str(yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"])
    assert [page for page in DOCS.rglob("*.md") if f"'{page.relative_to(DOCS)}'" not in menu] == []


@pytest.mark.parametrize("law", DELAY_LAWS)
def test_the_schedule_that_moves_has_the_delays_of_the_law(law):
    """By counting: a task reads what the updates before its tick have made."""
    grids = schedule.data()[law]["stages"]
    assert list(grids) == [str(stages) for stages in range(2, 10)]
    for stages, rows in grids.items():
        late = []
        for row in rows:
            tick_of = {forward: tick for tick, (forward, *_) in enumerate(row) if forward is not None}
            updates = [tick for tick, (_, _, backward, *_) in enumerate(row) if backward is not None]
            for tick, (forward, reads, backward, read, between) in enumerate(row):
                assert forward is None or reads == bisect_left(updates, tick)
                if backward is not None:
                    assert read == row[tick_of[backward]][1]
                    assert between == bisect_left(updates, tick) - read
            late.append(max(cell[4] for cell in row if cell[4] is not None))
        assert tuple(late) == Delays.by_law(law, int(stages)).per_stage


def git(folder, *command):
    who = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", folder, *who, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_figure_has_the_last_commit_that_changed_it(tmp_path):
    project = tmp_path / "inner"  # as in a repository that holds this one in a folder
    (project / "out").mkdir(parents=True)
    assert commits.of_figures(project, "out") == {}
    git(tmp_path, "init", "--quiet")
    hashes = []
    for names in (["same", "edited", "staged", "twice"], ["twice"], ["notes"]):
        for name in names:
            (project / "out" / f"{name}.{'md' if name == 'notes' else 'svg'}").write_text(f"{name} {len(hashes)}")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "--date=2020-01-01T00:00:00", "-m", "one")
        hashes.append(git(tmp_path, "log", "-1", "--format=commit %h (%cs)"))
    for name in ("edited", "staged", "new"):
        (project / "out" / f"{name}.svg").write_text("other")
    git(project, "add", "out/staged.svg")
    first, second, _ = hashes
    expected = {"same": first, "twice": second} | dict.fromkeys(("edited", "staged"), f"{first}, changed since")
    found = commits.of_figures(project, "out")
    assert found == {project / "out" / f"{name}.svg": text for name, text in expected.items()}
    block = (
        '<figure markdown="1" id="figure-{0}">\n\n[![A](../out/{0}.svg)](../out/{0}.svg)\n\n[code](a.py)\n\n</figure>\n'
    )
    page = "".join(map(block.format, ("new", "twice", "same")))
    lines = [line for line in commits.added(page, project / "docs", found).split("\n") if line.startswith("[code]")]
    assert lines == ["[code](a.py)", f"[code](a.py) · {second}", f"[code](a.py) · {first}"]
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{tmp_path}", "shallow")
    assert commits.of_figures(tmp_path / "shallow" / "inner", "out") == {}


class Assets(HTMLParser):
    """What a browser loads by itself: scripts, style sheets, images, frames."""

    def __init__(self):
        super().__init__()
        self.loaded = []

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loaded.append(names.get("src"))
        elif tag == "link" and names.get("rel") in ("stylesheet", "preload", "preconnect", "icon", "modulepreload"):
            self.loaded.append(names.get("href"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@slow
def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text())
        loaded = [asset.partition("?")[0] for asset in assets.loaded if asset and not asset.startswith("data:")]
        assert loaded
        folders = {asset: site if asset.startswith("/") else page.parent for asset in loaded}
        assert [asset for asset, folder in folders.items() if not (folder / asset.lstrip("/")).is_file()] == []
    styles = "".join(sheet.read_text() for sheet in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()[^;)]*//", styles) == []


@slow
def test_the_site_holds_results_and_reference(site):
    assert "reproduced" in (site / "index.html").read_text()
    assert "reproduced" in (site / "out" / "report" / "C6.html").read_text()
    assert (site / "out" / "figures" / "final_accuracy.svg").is_file()
    figures = commits.of_figures(ROOT, "paper_figures/out")
    pages = "".join(page.read_text() for page in (site / "out").rglob("*.html"))
    assert pages.count(" · commit ") == len(re.findall(r'<figure[^>]* id="figure-', pages))
    drawn = [
        (page.parent / source).resolve().relative_to((site / "out").resolve())
        for page in (site / "out").rglob("*.html")
        for source in re.findall(r'<img[^>]* src="([^"]*\.svg)"', page.read_text())
    ]
    assert {*drawn} == {path.relative_to(ROOT / "paper_figures" / "out") for path in figures}
    assert (site / "results" / "theory" / "stability.csv").is_file()
    assert "Fieller" in (site / "search" / "search_index.js").read_text()
    assert "make_strategy" in (site / "reference" / "strategies.html").read_text()
    assert ":func:" not in (site / "reference" / "theory.html").read_text()


@slow
def test_the_printed_results_hold_every_page_once_and_no_link_that_leads_nowhere(site, tmp_path):
    text = pdf.printable(site, tmp_path)
    pages = list((site / "out").rglob("*.html"))
    assert sorted(pdf.pages(site)) == sorted(page.resolve() for page in pages)
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names)) > len(pages)
    assert [link for link in re.findall(r' href="#([^"]+)"', text) if link not in names] == []
    files = [file for file in re.findall(r' src="([^"]+)"', text) if not file.startswith("data:")]
    assert len(files) == text.count("<figure")
    assert [file for file in files if not (tmp_path / file).is_file()] == []
    assert [link for link in re.findall(r' href="([^#"]+)"', text) if link.endswith((".html", ".csv"))] == []
    assert text.count("left out here") > 5
    assert text.count("<details open") == text.count("<details") > 5


def test_printing_without_a_site_or_a_browser_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "report.pdf"
    words = ["--site", str(tmp_path), "--out", str(out)]
    with pytest.raises(UserError, match=r"there is no Chromium, .*; on Debian: apt-get install chromium"):
        pdf.main(words)
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    browser.chmod(0o755)
    with pytest.raises(UserError, match=r"there is no site in .*; run: make site"):
        pdf.main(words)
    (tmp_path / "out").mkdir()
    page = '<nav class="md-nav md-nav--primary"></nav>\n<article class="md-content__inner md-typeset"></article>'
    (tmp_path / pdf.FIRST).write_text(page)
    out.write_text("old")
    with pytest.raises(UserError, match="printed no pages, and said: broken"):
        pdf.main(words)
    assert out.read_text() == "old"
