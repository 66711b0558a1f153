"""The builder: same records, same bytes; a page shows what registers itself; errors are one line."""

import json
import os
import re
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures import build, documents
from paper_figures.accuracy.evidence import evidence
from paper_figures.accuracy.why import RULE
from paper_figures.page import Built, Page, report
from paper_figures.pipelines import regimes
from paper_figures.records import Records
from paper_figures.report import known
from paper_figures.text import markdown
from paper_figures.verdicts import Answer, Verdict, words_by_name
from tests import synthetic_records
from tests.chaos.processes import descendants
from tests.experiments.running import kill, start_module
from tests.paper_figures import made_map
from tests.paper_figures.conftest import DOCUMENTS, TOLD, arguments
from tests.sampling import slow

ROOT = Path(__file__).parents[2]
BEGIN, END = documents.markers("results")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_pages_are_those_of_the_published_records(pages: dict[str, Built], published_results: Path) -> None:
    assert set(pages) == {"report", "evidence", "field", "pipelines", "graphs"}
    epochs = re.compile(r"Epochs: [^.]*\.")  # which are not published
    for name, page in pages.items():
        out = published_results / "paper_figures" / "out" / (name if name != "report" else "")
        for part, text in page.texts.items():
            assert epochs.sub("", text) == epochs.sub("", (out / f"{part}.md").read_text())
        assert words_by_name(page.verdicts) == json.loads((out / "verdicts.json").read_text())
        assert {path.stem for path in (out / "figures").glob("*")} == set(page.figures)
        assert set(re.findall(r"\[!\[.+\]\((?:\.\./)?figures/([\w-]+)\.svg\)\]", page.text)) == set(page.figures)
        assert set(re.findall(TOLD, page.text)) == set(page.figures)
        assert {path.stem for path in (out / "tables").glob("*.csv")} == set(page.csv)
        for stem in page.csv.keys() - {"training"}:
            made = pd.read_csv(StringIO(page.csv[stem].to_csv(index=False)))
            pd.testing.assert_frame_equal(made, pd.read_csv(out / "tables" / f"{stem}.csv"), rtol=1e-9)
        for stem in page.markdown.keys() - {"training"}:
            assert markdown(page.markdown[stem]) == (out / "tables" / f"{stem}.md").read_text()


@pytest.mark.parametrize("name", ["evidence", "pipelines"])
def test_every_part_answers_its_question_on_the_front_page_and_is_short(pages: dict[str, Built], name: str) -> None:
    front, *parts = pages[name].texts
    for part in parts:
        assert re.search(rf"^\| \[.+\?\]\({part}\.md\) \| \w", pages[name].texts[front], re.MULTILINE)
    for text in pages[name].texts.values():
        shown = re.sub(r"<details.*?</details>", "", text, flags=re.DOTALL)
        assert len(shown.split()) <= 900
        assert max((line.count(" | ") for line in shown.splitlines() if line.startswith("| ")), default=0) < 8


def test_the_rule_of_thumb_is_the_one_of_the_committed_measurements(
    pages: dict[str, Built], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else put into paper_figures/accuracy/why.py what ``python -m paper_figures.build rule`` prints."""
    monkeypatch.setattr(evidence, "load", lambda _: {"cells": pages["evidence"].csv["predictors"]})
    build.main(["rule"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["RULE = Rule(", *(f"    {name}={value!r}," for name, value in vars(RULE).items()), ")"]


@slow
def test_it_ends_with_the_shell_in_which_dvc_started_it(results: Path, tmp_path: Path) -> None:
    command = arguments(tmp_path, results, "page", "report")
    with start_module(tmp_path, "paper_figures.build", *command, dvc=True) as process:
        while len(list(descendants(process.pid))) < 2:  # it, and what draws the page
            time.sleep(0.01)
        kill(process, process.pid)
    assert not list(tmp_path.rglob("report.md"))


@slow
def test_building_again_in_another_process_gives_the_same_bytes(results: Path, built: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-W", "error", "-m", "paper_figures.build", *arguments(tmp_path, results)]
    subprocess.run(command, env=environment, check=True)
    first, second = contents(built / "out"), contents(tmp_path / "out")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


@slow
def test_documents_keep_what_stands_outside_the_markers_and_can_be_checked(results: Path, built: Path) -> None:
    text = (built / "README.md").read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nafter\n")
    assert "(out/figures/accuracy_and_copies.svg)](out/report/accuracy.md)" in text
    assert "](../out/report/C6.md)" in (built / "docs/index.md").read_text()
    appendix = (built / "docs/artifact.md").read_text()
    assert appendix.count("\n\nbetween\n\n") == len(DOCUMENTS["docs/artifact.md"]) - 1
    assert "\nold\n" not in text + appendix
    build.main([*arguments(built, results, "readme"), "--check"])
    stale = built / "stale.md"
    stale.write_text(text.replace("reproduced", "confirmed"))
    before = stale.read_bytes()
    with pytest.raises(UserError, match=r"not those of the records; run: python -m paper_figures\.build readme"):
        build.main([*arguments(built, results, "readme"), "--check", "--readme", str(stale)])
    assert stale.read_bytes() == before


def test_readme_and_docs_are_those_of_the_published_records(results: Path, published_results: Path) -> None:
    folder, known = published_results / "results", report.load(results)
    out = published_results / "paper_figures" / "out"
    evidence = {claim: value for claim, _, value, _ in documents.claims(folder, out)}
    for path, links in (("README.md", ("paper_figures/out", "docs/")), ("docs/index.md", ("../paper_figures/out", ""))):
        documents.update(ROOT / path, {"results": documents.results(known, evidence, *links)}, check=True)
    documents.update(ROOT / "docs" / "artifact.md", documents.sections(folder, out), check=True)


@pytest.mark.parametrize("text", ["no markers", BEGIN, END + BEGIN, f"{BEGIN}{END}{BEGIN}{END}", None])
def test_readme_without_its_markers(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="once each" if text is not None else "cannot be read"):
        documents.update(path, {"results": "new"}, check=False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("page", "page: give a name"),
        ("page unknown", r"does not exist; run: python -m experiments\.collect unknown"),
        ("page ../elsewhere", r"page is '\.\./elsewhere'; give a name: no /"),
        ("figure report/memroy", r"results file '.*runs.csv' does not exist; run: make reproduce"),
        ("figure reports/memory", r"unknown page 'reports'; did you mean 'report'"),
        ("page report", r"results file '.*runs.csv' does not exist; run: make reproduce"),
        ("page evidence", "nothing is confirmed yet; run: make paper"),
        ("page pipelines", r"no record .*even\.json; measure first: make pipelines"),
        ("page graphs", r"no records in .*graphs; measure first: make graphs"),
        ("rule", r"make a rule; run: python -m experiments\.predictors screen-mlp"),
    ],
)
def test_a_question_without_records_is_one_line(tmp_path: Path, command: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build.main(arguments(tmp_path, tmp_path, *command.split()))


def test_a_claim_without_a_test_stops_the_build() -> None:
    def silent() -> Verdict:
        """Judge nothing.

        Claim: All is well.
        """
        return Verdict(answer=Answer.YES)

    with pytest.raises(UserError, match=r"claim C9 has no test; write 'Test: ...' in the docstring of .*silent"):
        report.claim("C9")(silent)


def test_a_page_shows_what_is_registered_with_the_data_that_it_names(tmp_path: Path) -> None:
    page = Page("small")
    page.template = tmp_path / "small.md"
    page.template.write_text(
        "# Small\n\none\ntwo\n\n- three\n  four\n\n{{ verdict_table | table }}\n\n{{ tables.ab | table }}\n"
    )
    plot = page.figure("plot_{name}", each="name in names", when=lambda name: name != "c", data="ab")
    plot(lambda name: Figure())
    page.table("ab", shown=lambda table, total: table.astype(str) + f" of {total}")(lambda n: pd.DataFrame({"n": [n]}))

    @page.value
    def total(n: int) -> int:
        return 10 * n

    @page.claim("C1")
    def judge(total: int) -> Verdict:
        """Judge it.

        Claim: It holds.

        Test: At least {least}.
        """
        return Verdict(answer=Answer.YES if total >= 20 else Answer.NO, demands={"least": 20})

    made = page.build({"names": ["a", "b", "c"], "n": 2})
    table = "| claim | statement | verdict |\n| --- | --- | --- |\n| C1 | It holds. | reproduced |\n\n"
    assert made.text.startswith(f"# Small\n\none two\n\n- three four\n\n{table}| n |\n| --- |\n| 2 of 20 |")
    told = r"\(tables/ab.csv\) · \[code\]\(../../../tests/.*\) · `python -m paper_figures.build figure small/(.*)`"
    assert re.findall(told, made.text) == ["plot_a", "plot_b"]
    assert re.findall(r'^<figure markdown="1" id="figure-(.*)">$', made.text, re.MULTILINE) == ["plot_a", "plot_b"]
    assert (made.verdicts[0].test, made.csv["ab"]["n"].item()) == ("At least 20.", 2)
    with pytest.raises(UserError, match="nothing on this page is called totl; did you mean 'total'"):
        page.data({"n": 2}).call(lambda totl: totl)
    made.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "verdicts.json").read_text()) == {"C1": "reproduced"}
    page.template.write_text('{{ figure("plot_c", "Not drawn.") }}')
    with pytest.raises(UserError, match="page small: there is no figure plot_c in these records; did you mean 'plot_"):
        page.build({"names": ["a"], "n": 2})
    page.template.write_text("# Small\n")
    page.figure("other", data="abc")(lambda n: Figure())
    with pytest.raises(UserError, match="page small: figure other draws the table abc; did you mean 'ab'"):
        page.build({"names": ["a"], "n": 2})


def test_a_part_answers_its_question_with_the_claims_of_its_file_and_an_empty_one_is_left_out(tmp_path: Path) -> None:
    page = Page("small", Path(__file__).stem, "other", "empty")
    page.template = tmp_path / "small.md"
    page.template.write_text("# Small\n\n{{ questions | table }}\n")
    (tmp_path / f"{Path(__file__).stem}.md").write_text(
        "# Why?\n\nSo: **{{ claims[0].word }},\nat n = {{ n }}**, and **more**.\n\n{{ figure('plot', 'A plot.') }}\n"
    )
    (tmp_path / "other.md").write_text("# Which?\n\n{{ claims | length }} claims.\n\n**Below.**\n")
    (tmp_path / "empty.md").write_text("{% if n > 2 %}\n# Never\n{% endif %}\n\n")
    page.figure("plot")(lambda n: Figure())
    page.claim()(lambda n: Verdict("Holds it?", Answer.YES))
    made = page.build({"n": 2}, "deeper/small")
    assert list(made.texts) == ["small", Path(__file__).stem, "other"]
    head = "# Small\n\n| question | answer |\n| --- | --- |\n"
    why = f"| [Why?]({Path(__file__).stem}.md) | reproduced, at n = 2 |\n"
    assert made.texts["small"] == f"{head}{why}| [Which?](other.md) |  |\n"
    assert "0 claims." in made.texts["other"]
    assert "(figures/plot.svg)" in made.texts[Path(__file__).stem]
    assert "(../../../../tests/paper_figures/test_build.py)" in made.texts[Path(__file__).stem]


def page_of(records: Records, measured: regimes.Regimes | None = None) -> str:
    """The report's text, with the figures drawn that have runs in them."""
    made = report.build(known(records, synthetic_records.theory_tables(), ComparisonSettings(), measured))
    for stem, draw in made.figures.items():
        if not stem.startswith(("derivation", "stability", "costs", "gantt", "schedules", "spikepipe")):
            draw()
    return made.text


def test_one_network_one_seed_the_other_convention_and_a_map(tmp_path: Path) -> None:
    made = synthetic_records.make(seeds=1, units={"vgg": 3}, groups=(1,))
    for name in ("runs", "stages", "reconstruction"):
        halved = {column: made[name][column] // 2 for column in ("delay", "max_delay") if column in made[name]}
        made[name] = made[name].assign(**halved, convention="pipedream")
    text = page_of(Records(**made), regimes.load(made_map.write(tmp_path)))
    assert "PipeDream, S" in text
    assert "nan" not in text.lower().split()
    assert "(measured for two stages, else modelled)" in text
    assert "And measured on two processes" in " ".join(text.split()) or "Measured on two processes" in text


def test_sequential_runs_alone() -> None:
    made = synthetic_records.make(seeds=2, units={"mlp": 3}, groups=())
    made["reconstruction"] = synthetic_records.make(seeds=1, units={"mlp": 3})["reconstruction"]
    text = page_of(Records(**made))
    assert "Strategies: sequential." in text
    assert "(in our cost model)" in text
