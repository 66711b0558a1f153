"""The build script: same records, same bytes; the README's results; errors in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import synthetic_records
from matplotlib.figure import Figure

from layerpipe2.errors import UserError
from paper_figures import build, figures, tables
from paper_figures.markers import markers
from paper_figures.readme import NAME
from paper_figures.records import Records
from paper_figures.theory_records import Theory, load

_COMMANDS = ("figures", "tables", "report", "readme")
BEGIN, END = markers(NAME)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results, params.yaml, README.md and everything built in ``out``."""
    folder = tmp_path_factory.mktemp("build")
    synthetic_records.write(folder / "results", synthetic_records.make())
    (folder / "params.yaml").write_text("report: {equivalence_margin_points: 2.0}\n")
    (folder / "README.md").write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    for command in _COMMANDS:
        build.main(_arguments(folder, command))
    return folder


def _arguments(folder: Path, command: str, out: str = "out") -> list[str]:
    return [
        *(command, "--results", f"{folder}/results", "--out", f"{folder}/{out}"),
        *("--params", f"{folder}/params.yaml", "--readme", f"{folder}/README.md"),
    ]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_building_again_in_another_process_gives_the_same_bytes(place: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    program = "import sys; from paper_figures import build; [build.main(a.split()) for a in sys.argv[1:]]"
    calls = [" ".join(_arguments(place, command, "again")) for command in ("figures", "tables", "report")]
    subprocess.run([sys.executable, "-W", "error", "-c", program, *calls], env=environment, check=True)
    first, second = _bytes(place / "out"), _bytes(place / "again")
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_every_figure_and_table_is_written(place: Path) -> None:
    written = set(_bytes(place / "out"))
    records = Records(**synthetic_records.make())
    stems = list(figures.catalogue(records, load(synthetic_records.THEORY)))
    names = ("accuracy", "equivalence", "equivalence_own", "training", "delays", "memory", "reconstruction")
    names += ("proofs", "partitions", "schedules")
    assert written == {
        *(f"figures/{stem}.{kind}" for stem in stems for kind in ("png", "svg")),
        *(f"tables/{name}.{kind}" for name in names for kind in ("csv", "md")),
        *("report.md", "report.html", "verdicts.json"),
    }


def test_report_shows_every_figure_and_claim_and_needs_no_network(place: Path) -> None:
    page, text = (place / "out/report.html").read_text(), (place / "out/report.md").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<figure>") == text.count("](figures/") == len(list((place / "out/figures").glob("*.svg")))
    for key in (f"C{number}" for number in range(1, 9)):
        assert f"### {key}: " in text
        assert f"<h3>{key}: " in page
    assert "nan" not in text.lower().split()
    assert "<code>layerpipe2 derive</code>" in page


def test_diverged_runs_are_shown_as_diverged(place: Path) -> None:
    table = tables.accuracy(Records(**synthetic_records.make()))
    row = table[(table["network"] == "mlp") & (table["stages"] == 9) & (table["strategy"] == "latest")].iloc[0]
    assert (row["n"], row["diverged"]) == (0, 3)
    assert "3 of 3 diverged" in (place / "out/tables/accuracy.md").read_text()
    assert "3 of 3 diverged" in (place / "README.md").read_text()
    assert "(n=2, 1 of 3 diverged)" in (place / "out/report.md").read_text()


def test_readme_keeps_what_stands_outside_the_markers(place: Path) -> None:
    text = (place / "README.md").read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\n\nafter\n")
    assert "old" not in text
    assert "(out/figures/final_accuracy.png)" in text


def test_readme_check(place: Path, tmp_path: Path) -> None:
    build.main([*_arguments(place, "readme"), "--check"])
    stale = tmp_path / "README.md"
    stale.write_text((place / "README.md").read_text().replace("n=3", "n=30"))
    before = stale.read_bytes()
    with pytest.raises(UserError, match="not those of the records"):
        build.main([*_arguments(place, "readme"), "--check", "--readme", str(stale)])
    assert stale.read_bytes() == before


@pytest.mark.parametrize("text", ["no markers", BEGIN, END + BEGIN, f"{BEGIN}{END}{BEGIN}{END}"])
def test_readme_without_its_markers(place: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UserError, match="once each"):
        build.main([*_arguments(place, "readme"), "--readme", str(path)])


def test_report_before_figures(place: Path) -> None:
    with pytest.raises(UserError, match="run first: python -m"):
        build.main(_arguments(place, "report", "nowhere"))


@pytest.mark.parametrize("text", ["[1, 2", "", "- a\n", None])
def test_bad_parameter_file(place: Path, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        build.main([*_arguments(place, "tables"), "--params", str(path)])
    assert "\n" not in str(caught.value)


@pytest.fixture
def only_records(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is drawn from records is drawn again; figures of the theory are copied, which depend on no record."""
    catalogue = figures.catalogue

    def shorter(records: Records, theory: Theory) -> dict[str, Callable[[], Figure]]:
        found = catalogue(records, theory).items()
        return {stem: draw for stem, draw in found if isinstance(draw, partial) and draw.args[0] is records}

    shutil.copytree(place / "out" / "figures", tmp_path / "out" / "figures")
    monkeypatch.setattr(figures, "catalogue", shorter)


@pytest.mark.usefixtures("only_records")
def test_one_network_one_seed_and_the_other_convention(tmp_path: Path) -> None:
    made = synthetic_records.make(seeds=1, units={"vgg": 3}, groups=(1,))
    for name in ("runs", "stages", "reconstruction"):
        halved = {column: made[name][column] // 2 for column in ("delay", "max_delay") if column in made[name]}
        made[name] = made[name].assign(**halved, convention="pipedream")
    synthetic_records.write(tmp_path / "results", made)
    (tmp_path / "params.yaml").write_text("{}\n")
    for command in _COMMANDS[:3]:
        build.main(_arguments(tmp_path, command))
    text = (tmp_path / "out/report.md").read_text()
    assert "PipeDream, S" in text
    assert "nan" not in text.lower().split()


@pytest.mark.usefixtures("only_records")
def test_sequential_runs_alone(tmp_path: Path) -> None:
    made = synthetic_records.make(seeds=2, units={"mlp": 3}, groups=())
    made["reconstruction"] = synthetic_records.make(seeds=1, units={"mlp": 3})["reconstruction"]
    synthetic_records.write(tmp_path / "results", made)
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    for command in _COMMANDS:
        build.main(_arguments(tmp_path, command))
    assert "| sequential |" in (tmp_path / "README.md").read_text()
