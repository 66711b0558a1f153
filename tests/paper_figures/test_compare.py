"""Published results and those here: matched by what names them, whatever their file and line."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures import compare, published
from paper_figures.compare import ROUNDING, difference
from tests import synthetic_records


def _git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    command = ["git", *author, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory, published_results: Path) -> Path:
    """A repository with results and pages in its only commit."""
    folder = tmp_path_factory.mktemp("committed")
    synthetic_records.write(folder / "results", synthetic_records.make())
    for name in ("verdicts.json", "tables/assay_rules.csv"):
        (folder / "paper_figures" / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(published_results / "paper_figures" / "out" / name, folder / "paper_figures" / "out" / name)
    _git(folder, "init", "--quiet")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", "results")
    return folder


@pytest.fixture
def place(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the command is called."""
    folder = tmp_path / "place"
    shutil.copytree(committed, folder)
    monkeypatch.chdir(folder)
    return folder


def change(place: Path, name: str, **columns: object) -> None:
    """Give the first rows of a table of results or pages other values."""
    path = next(path for part in ("results", "paper_figures") for path in (place / part).rglob(f"{name}.csv"))
    table = pd.read_csv(path)
    for column, value in columns.items():
        table.loc[0, column] = value
    table.to_csv(path, index=False)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, differ: bool = False) -> str:
    """What the command prints; with ``differ`` it must end with 1."""
    if differ:
        with pytest.raises(SystemExit) as ended:
            compare.main(arguments)
        assert ended.value.code == 1
    else:
        compare.main(arguments)
    return capsys.readouterr().out


def test_the_same_results_are_equal_in_whatever_files_and_order_they_stand(place, capsys):
    path = place / "results" / "runs.csv"
    pd.read_csv(path).sample(frac=1, random_state=0).to_csv(path, index=False)
    shutil.move(place / "results" / "theory", place / "theory")
    (place / "results" / "elsewhere").mkdir()
    for name in ("runs", "epochs", "reconstruction", "stages"):
        (place / "results" / f"{name}.csv").rename(place / "results" / "elsewhere" / f"{name}.csv")
    (place / "results" / "experiment.json").rename(place / "results" / "elsewhere" / "experiment.json")
    shutil.move(place / "theory", place / "results" / "theory")
    out = printed(capsys)
    assert "rows are equal; every verdict is the same." in out
    assert "Published: commit " in out
    path = place / "results" / "elsewhere" / "runs.csv"
    table = pd.read_csv(path)
    table.assign(test_loss=table["test_loss"] * (1 + ROUNDING / 10)).to_csv(path, index=False)
    assert "rows are equal to rounding (largest difference 1e-06); every verdict is the same." in printed(capsys)


def test_a_changed_value_is_named_with_its_run(place, capsys):
    change(place, "runs", test_loss=0.25)
    out = " ".join(printed(capsys).split())
    assert "1 of " in out
    assert "test_loss 0.1 -> 0.25" in out
    assert "every verdict is the same." in out
    path = place / "results" / "runs.csv"
    table = pd.read_csv(path)
    table.iloc[1:].assign(seed=table["seed"].replace(2, 7)).to_csv(path, index=False)
    count = int((table["seed"][1:] == 2).sum())
    out = " ".join(printed(capsys).split())
    assert f"{count + 1} missing here; {count} only here" in out
    assert "others have no partner" in out


def test_another_verdict_or_outcome_ends_with_1_and_the_page_says_the_same(place, capsys):
    change(place, "assay_rules", outcome="equivalent", sensitive=True)
    path = place / "paper_figures" / "out" / "verdicts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"C5": "not reproduced"}))
    assert "2 verdicts differ (report: C5; CNN (small), 5 stages)" in printed(capsys, "--page", differ=True)
    page = (place / "paper_figures" / "out" / "compare" / "compare.md").read_text()
    assert "2 verdicts differ (report: C5; CNN (small), 5 stages)" in page
    assert "equivalent: latest" in page
    assert "Published: commit" in page


def test_a_commit_is_compared_with_by_its_name(place, capsys):
    change(place, "runs", test_loss=0.25)
    _git(place, "commit", "--quiet", "--all", "--message", "other results")
    assert "rows are equal;" in printed(capsys)
    assert "test_loss 0.1 -> 0.25" in " ".join(printed(capsys, "HEAD~1").split())


def test_a_commit_that_does_not_exist_or_has_no_results_is_refused(place):
    with pytest.raises(UserError, match=r"git has no published results .*give REV"):
        compare.main(["nowhere"])
    _git(place, "rm", "--quiet", "-r", "results/runs.csv")
    _git(place, "commit", "--quiet", "--message", "without")
    with pytest.raises(UserError, match=r"of .* has no results in today's layout; give REV a later commit"):
        compare.main([])


def test_two_rows_of_one_run_and_a_missing_column_are_refused(place):
    path = place / "results" / "runs.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.iloc[:1]]).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"results/runs.csv of this folder has two rows for mlp 1 stash 0 tuned"):
        compare.main([])
    table.drop(columns="rate").to_csv(path, index=False)
    with pytest.raises(UserError, match=r"results/runs.csv of this folder has no column rate"):
        compare.main([])


def test_without_git_a_copy_keeps_what_was_published(place, capsys):
    published.main([])
    assert not (place / published.KEPT).exists()  # git has them
    shutil.rmtree(place / ".git")
    assert "Published: the source distribution." in printed(capsys)
    published.main([])
    change(place, "runs", test_loss=0.25)
    published.main([])  # the copy is kept as it was
    assert "test_loss 0.1 -> 0.25" in " ".join(printed(capsys).split())
    with pytest.raises(UserError, match=r"REV is 'v1', but .* is no git repository"):
        compare.main(["v1"])


def test_without_git_and_copy_there_is_nothing_to_compare_with(place):
    shutil.rmtree(place / ".git")
    (place / "results" / "times").mkdir()
    with pytest.raises(UserError, match=r"neither a git history nor .published.*; clone the repository, or unpack"):
        compare.main([])


def test_numbers_that_come_or_go_and_other_texts_are_no_rounding():
    names = pd.Index(["a", "b"], name="name")
    before = pd.DataFrame({"x": [1.0, np.nan], "text": ["yes", "no"], "commit": ["1", "2"]}, index=names)
    assert difference(before, before.assign(commit="3")).words == "equal"
    gone = difference(before, before.assign(x=[np.nan, np.nan]))
    assert (gone.differing, gone.largest, gone.where) == (1, np.inf, "a: x 1.0 -> nan")
    other = difference(before, before.assign(text=["yes", "maybe"]))
    assert other.words == "1 of 2 rows differ; most: b: text no -> maybe"
    assert difference(before, before.iloc[:0]).words == "2 missing here"
    assert difference(before, before.assign(x=[1 + 1e-7, np.nan])).words == "equal to rounding (1e-07)"
