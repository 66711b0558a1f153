"""The builder: same records, same bytes; the README's results; errors in one line."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures import build, figures
from paper_figures.claims.training import assay
from paper_figures.pages import fill, readme, report
from paper_figures.pages.readme import markers
from paper_figures.records import regimes
from paper_figures.records import training as training_records
from paper_figures.records.training import Records
from paper_figures.tables import training as tables
from tests import synthetic_records
from tests.chaos.processes import descendants
from tests.experiments.running import kill, start_module
from tests.paper_figures import made_map, made_pipelines
from tests.sampling import slow

BEGIN, END = markers("results")
PARTS = ("claims", "accuracy", "reconstruction", "times", "evidence", "pipelines")
TABLES = tuple(f"artifact-{part}" for part in PARTS)
DOCUMENTS = {"README.md": ("results",), "docs/artifact.md": TABLES}


def _write_documents(folder: Path) -> None:
    (folder / "docs").mkdir()
    for path, names in DOCUMENTS.items():
        sections = "\n\nbetween\n\n".join("\nold\n".join(markers(name)) for name in names)
        (folder / path).write_text(f"# Title\n\n{sections}\n\nafter\n")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results, and documents that show them."""
    folder = tmp_path_factory.mktemp("build")
    synthetic_records.write(folder / "results", synthetic_records.make())
    (folder / "results" / "pipelines").mkdir()
    made_pipelines.write(folder / "results" / "pipelines")
    _write_documents(folder)
    return folder


@pytest.fixture(scope="module")
def place(written: Path) -> Path:
    """The same, with everything built in ``out``."""
    build.main(_arguments(written))
    build.main(_arguments(written, "readme"))
    return written


def _arguments(folder: Path, *command: str, out: str = "out") -> list[str]:
    return [
        *command,
        *("--results", f"{folder}/results", "--out", f"{folder}/{out}"),
        *("--readme", f"{folder}/README.md", "--docs", f"{folder}/docs"),
    ]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@slow
def test_it_ends_with_the_shell_in_which_dvc_started_it(tmp_path: Path) -> None:
    synthetic_records.write(tmp_path / "results", synthetic_records.make())
    arguments = _arguments(tmp_path, "page", "report")
    with start_module(tmp_path, "paper_figures.build", *arguments, dvc=True) as process:
        while len(list(descendants(process.pid))) < 2:  # it, and what draws the page
            time.sleep(0.01)
        kill(process, process.pid)
    assert not list(tmp_path.rglob("report.md"))


@slow
def test_building_again_in_another_process_gives_the_same_bytes(place: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-W", "error", "-m", "paper_figures.build"]
    subprocess.run([*command, *_arguments(place, out="again")], env=environment, check=True)
    first, second = _bytes(place / "out"), _bytes(place / "again")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


@slow
def test_every_figure_and_table_is_written(place: Path) -> None:
    records, settings = synthetic_records.records(), ComparisonSettings()
    judged = assay(records, settings)
    stems = list(figures.catalogue(records, synthetic_records.theory_tables(), judged, settings.level))
    names = ("accuracy", "assay_costs", "assay_rules", "training", "delays", "memory", "reconstruction")
    names += ("proofs", "partitions", "schedules")
    found = _bytes(place / "out")
    assert "pipelines/pipelines.html" in found
    assert {path for path in found if not path.startswith("pipelines/")} == {
        *(f"figures/{stem}.svg" for stem in stems),
        *(f"tables/{name}.{kind}" for name in names for kind in ("csv", "md")),
        *("report.md", "report.html", "verdicts.json"),
    }


@slow
def test_report_shows_every_figure_and_claim_and_needs_no_network(place: Path) -> None:
    page, text = (place / "out/report.html").read_text(), (place / "out/report.md").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert all(f'id="{name}"' in page for name in re.findall(r'href="#([^"]+)"', page))
    assert page.count("<figure>") == text.count("](figures/") == len(list((place / "out/figures").glob("*.svg")))
    for key in (f"C{number}" for number in range(1, 9)):
        assert f"### {key}: " in text
        assert f">{key}: " in page
    assert "nan" not in text.lower().split()
    assert "<code>layerpipe2 derive</code>" in page


@slow
def test_diverged_runs_are_shown_as_diverged(place: Path) -> None:
    table = tables.accuracy(synthetic_records.records())
    row = table[(table["network"] == "mlp") & (table["stages"] == 9) & (table["strategy"] == "latest")].iloc[0]
    assert (row["n"], row["diverged"]) == (0, 3)
    assert "3 of 3 diverged" in (place / "out/tables/accuracy.md").read_text()
    assert "(n=2, 1 of 3 diverged)" in (place / "out/report.md").read_text()


@slow
def test_readme_keeps_what_stands_outside_the_markers(place: Path) -> None:
    text = (place / "README.md").read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nafter\n")
    assert "\nold\n" not in text
    assert "(out/figures/accuracy_and_copies.svg)" in text
    appendix = (place / "docs/artifact.md").read_text()
    assert appendix.count("\n\nbetween\n\n") == len(TABLES) - 1
    assert "\nold\n" not in appendix


@slow
def test_readme_check(place: Path, tmp_path: Path) -> None:
    build.main([*_arguments(place, "readme"), "--check"])
    stale = place / "stale.md"
    stale.write_text((place / "README.md").read_text().replace("n=3", "n=30"))
    before = stale.read_bytes()
    with pytest.raises(UserError, match=r"not those of the records; run: python -m paper_figures\.build readme"):
        build.main([*_arguments(place, "readme"), "--check", "--readme", str(stale)])
    assert stale.read_bytes() == before


@pytest.mark.parametrize("text", ["no markers", BEGIN, END + BEGIN, f"{BEGIN}{END}{BEGIN}{END}", None])
def test_readme_without_its_markers(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="once each" if text is not None else "cannot be read"):
        readme.update(path, {"results": "new"}, check=False)


def test_a_page_needs_a_name(written: Path) -> None:
    with pytest.raises(UserError, match="give a name"):
        build.main(["page"])
    with pytest.raises(UserError, match=r"does not exist; run: python -m experiments\.collect unknown"):
        build.main(_arguments(written, "page", "unknown"))
    with pytest.raises(UserError, match=r"page is '\.\./elsewhere'; give a name: no /"):
        build.main(_arguments(written, "page", "../elsewhere"))


def _text(records: Records) -> str:
    made = report.page(records, synthetic_records.theory_tables(), ComparisonSettings())
    for stem, draw in made.figures.items():
        if not stem.startswith(("derivation", "stability", "costs", "gantt", "schedules")):  # they have no runs in them
            draw()
    for table in (*made.csv.values(), *made.markdown.values()):
        assert isinstance(table, pd.DataFrame)
    return fill(made.template, made.content)


def test_one_network_one_seed_and_the_other_convention() -> None:
    made = synthetic_records.make(seeds=1, units={"vgg": 3}, groups=(1,))
    for name in ("runs", "stages", "reconstruction"):
        halved = {column: made[name][column] // 2 for column in ("delay", "max_delay") if column in made[name]}
        made[name] = made[name].assign(**halved, convention="pipedream")
    text = _text(Records(**made))
    assert "PipeDream, S" in text
    assert "nan" not in text.lower().split()


def test_sequential_runs_alone(tmp_path: Path) -> None:
    made = synthetic_records.make(seeds=2, units={"mlp": 3}, groups=())
    made["reconstruction"] = synthetic_records.make(seeds=1, units={"mlp": 3})["reconstruction"]
    assert "Strategies: sequential." in _text(Records(**made))
    synthetic_records.write(tmp_path / "results", made)
    records, theory = training_records.load(tmp_path / "results"), synthetic_records.theory_tables()
    assert "These are 2 training runs" in readme.results(records, theory, ComparisonSettings(), "out")


def test_a_measured_map_decides_the_claim_that_is_modelled_without_it(tmp_path: Path) -> None:
    records, theory = Records(**synthetic_records.make(seeds=1, units={"mlp": 3})), synthetic_records.theory_tables()
    measured = regimes.load(made_map.write(tmp_path))
    for found, said in ((None, "(in our cost model)"), (measured, "(measured for two stages, else modelled)")):
        made = report.page(records, theory, ComparisonSettings(), found)
        text = fill(made.template, made.content)
        assert said in text
        assert ("And measured on two processes" in text) == (found is not None)
        assert said in readme.results(records, theory, ComparisonSettings(), "out", measured=found)
