"""What pages say of the paper's network and data, from made-up runs that are called so."""

import json
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import COLUMNS
from paper_figures import build
from paper_figures.accuracy.original import answers, curves, draw
from paper_figures.records import Records, load
from tests import synthetic_records

WHERE = {"network": "resnet18", "dataset": "cifar100", "width": 16, "planned": 24}


def made(
    results: Path, name: str = "evidence-resnet18-narrow", finished: int = 24, seeds: int = 3, **changes: object
) -> Path:
    """Tables of runs of ResNet-18 at 10 stages, of an experiment with this name."""
    tables = synthetic_records.make(seeds, units={"resnet18": 10}, groups=(1,))
    tables["runs"]["dataset"] = "cifar100"
    tables["times"] = times(tables)
    folder = synthetic_records.write(results / "evidence" / name / "tables", tables)
    experiment = {**synthetic_records.EXPERIMENT, **WHERE, "name": name, "finished": finished, **changes}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    return folder


def times(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The table of times that belongs to others."""
    return tables["runs"][[*COLUMNS["times"]]]


def page(results: Path, out: Path, name: str) -> dict[str, str]:
    """The texts of an experiment's own page."""
    build.main(["page", name, "--results", str(results), "--out", str(out)])
    return {path.stem: path.read_text() for path in (out / "experiments" / name).glob("*.md")}


@pytest.mark.parametrize("study", [False, True])
def test_the_part_asks_the_claim_and_stands_beside_the_default_study(tmp_path: Path, study: bool) -> None:
    name = made(tmp_path).parent.name
    if study:
        synthetic_records.write(tmp_path, synthetic_records.make())
    text = page(tmp_path, tmp_path / "out", name)["original"]
    title = "ResNet-18, width 16, CIFAR-100, momentum 0.9, 10 stages"
    assert text.startswith(f"# Does it hold for the paper's network and data?\n\n**{title}: ")
    assert "A pipeline-aware moving average reconstructs the historical weights, without losing accuracy." in text
    assert ("| MLP, digits" in text) == study
    assert "Incomplete" not in text
    table = tmp_path / "out" / "experiments" / name / "tables" / "curves_resnet18-narrow.csv"
    assert table.read_text().startswith("strategy,seed,status,epoch,percent\n")


def test_another_network_has_no_such_part(tmp_path: Path) -> None:
    folder = made(tmp_path)
    runs = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(runs.replace("cifar100", "digits"))
    assert "original" not in page(tmp_path, tmp_path / "out", folder.parent.name)
    assert answers(tmp_path) == []


def test_one_seed_is_shown_and_judges_nothing(tmp_path: Path) -> None:
    made(tmp_path, seeds=1, finished=8, published=True)
    assert answers(tmp_path) == []
    with pytest.raises(UserError, match="no cell has two seeds of exact stashing and of the latest weights yet; go on"):
        build.write_page("evidence-resnet18-narrow", tmp_path, tmp_path)
    other = synthetic_records.make()
    synthetic_records.write(tmp_path / "evidence" / "evidence-a" / "tables", other | {"times": times(other)})
    build.write_page("evidence", tmp_path, tmp_path)
    text = (tmp_path / "evidence" / "original.md").read_text()
    assert "10 stages: one seed so far.**" in text
    assert "**Incomplete**: 8 of 24 runs are done" in text
    assert "One seed judges nothing" in text
    stash = synthetic_records.make(1, units={"resnet18": 10}, groups=(1,))["runs"].set_index("strategy").loc["stash"]
    accuracy = f"{100 * stash['test_accuracy']:.2f}"
    assert f"| 10 | stash | 0.02 | {accuracy} [{accuracy}, {accuracy}] | 1 | 0 |" in text


def test_the_report_says_both_costs_and_the_verdict_of_what_is_published(tmp_path: Path) -> None:
    made(tmp_path, "evidence-resnet18", published=False)
    assert answers(tmp_path) == []
    made(tmp_path, finished=20)
    (said,) = answers(tmp_path)
    assert said.startswith("ResNet-18, width 16, CIFAR-100, momentum 0.9, 10 stages (n = 3 seeds): the delay costs ")
    assert said.endswith(" So far 20 of 24 runs are done.")
    assert "C6 there: " in said


def test_curves_are_per_cent_over_epochs_from_one_and_diverged_runs_are_left_out(tmp_path: Path) -> None:
    records: Records = load(made(tmp_path))
    found = curves(records)
    first = records.epochs.iloc[0]
    row = found[(found["strategy"] == first["strategy"]) & (found["seed"] == first["seed"])].iloc[0]
    assert (row["epoch"], row["percent"]) == (1, pytest.approx(100 * first["val_accuracy"]))
    whole, apart = draw("a", {"a": records}).axes
    lines = set(found.loc[found["status"] == "completed", "strategy"])
    assert len(whole.lines) == len(lines) == 8
    assert len(apart.lines) == len(lines)  # all but stash, and the line at 0
