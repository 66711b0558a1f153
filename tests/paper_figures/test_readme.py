"""What README.md and docs say of results is what the published records say."""

import shutil
from pathlib import Path

import pytest

from layerpipe2.errors import UserError
from paper_figures import build
from paper_figures.pages import artifact, readme
from tests import synthetic_records

ROOT = Path(__file__).parents[2]


def test_readme_and_docs_are_those_of_the_published_records(published_results, tmp_path):
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/artifact.md"):
        shutil.copy(ROOT / page, tmp_path / page)
    shutil.copytree(published_results / "results", tmp_path / "results")
    (tmp_path / "paper_figures").mkdir()
    (tmp_path / "paper_figures" / "out").symlink_to(published_results / "paper_figures" / "out")
    synthetic_records.make()["epochs"].to_csv(tmp_path / "results" / "epochs.csv", index=False)  # not in the README
    places = {"--results": "results", "--out": "paper_figures/out", "--readme": "README.md", "--docs": "docs"}
    options = [word for option, place in places.items() for word in (option, str(tmp_path / place))]
    build.main(["readme", "--check", *options])


def test_the_artifact_appendix_is_made_of_the_published_results(published_results, tmp_path):
    sections = artifact.sections(published_results / "results", published_results / "paper_figures/out")
    page, text = tmp_path / "artifact.md", (ROOT / "docs/artifact.md").read_text()
    page.write_text(text.replace("| 0 of ", "| 1 of ", 1))
    with pytest.raises(UserError, match="not those of the records; run: python -m"):
        readme.update(page, sections, check=True)
    readme.update(page, sections, check=False)
    assert page.read_text() == text


def test_minutes_are_those_of_all_runs_in_two_processes(tmp_path):
    (tmp_path / "one" / "tables").mkdir(parents=True)
    (tmp_path / "one" / "tables" / "times.csv").write_text("strategy,wall_time_s\nstash,300\nlatest,180\n")
    assert list(artifact.times(tmp_path)) == [("one", "2", "4")]


def test_a_tolerance_is_that_of_two_means_and_at_least_one_image():
    assert artifact.tolerance(1.0, 3, 0.2) == pytest.approx(4.3027 * (2 / 3) ** 0.5, rel=1e-4)
    assert artifact.tolerance(0.0, 3, 0.2) == 0.2
