"""Tables from records."""

import json

import pytest

from experiments import collect
from experiments.accuracy.schema import read_experiment
from experiments.accuracy.tables import TABLES, curves, metrics
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import COLUMNS
from layerpipe2.lab.runs import cell_file
from tests.made_records import record
from tests.small_experiments import ROOT, UNTUNED, read_rows, small

COLLECTED = sorted(folder.parent.name for folder in (ROOT / "results").glob("*/*/tables"))
"""The larger experiments whose tables are committed."""


@pytest.fixture
def grid(tmp_path):
    """An experiment with the runs of ``records`` and one that is missing, at strategy ``latest``."""
    settings = {"epochs": 2, "batch_size": 64, "width": 8}
    strategies = ["stash", "ema-window", "latest"]
    return small(tmp_path, UNTUNED, group_sizes=[3], strategies=strategies, settings=settings)


def finish(grid, diverged=(), missing=()):
    """Write a made-up record of every run."""
    for task in grid.tasks:
        if task.cell.strategy not in missing:
            made = record(task.cell.strategy, task.config.seed, diverged=task.cell.strategy in diverged)
            cell_file.write(grid.folder / task.path, made | {"config": task.config.to_dict()})


def test_every_table_has_its_columns_and_rows(grid, tmp_path):
    finish(grid, diverged=["latest"])
    assert collect.collect(grid, tmp_path) == (8, 8)
    tables = {name: read_rows(tmp_path / f"{name}.csv") for name in TABLES}
    counts = {name: len(rows) for name, rows in tables.items()}
    assert counts == {"runs": 8, "epochs": 14, "times": 8, "stages": 4, "reconstruction": 2}
    for name, rows in tables.items():
        assert tuple(rows[0]) == COLUMNS[name]
    diverged = next(row for row in tables["runs"] if row["strategy"] == "latest")
    assert (diverged["status"], diverged["diverged_epoch"], diverged["test_accuracy"]) == ("diverged", "0", "")
    assert tables["stages"][0] == {"network": "mlp", "group_size": "3", "stage": "0", "delay": "4", "parameters": "10"}
    assert tables["reconstruction"][0]["strategy"] == "ema-window"
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert (found["runs"], found["diverged"], found["accuracy"]["stash"]) == (8, 2, 82.5)
    curves = read_rows(tmp_path / "curves" / "mlp.csv")
    assert list(curves[0]) == ["epoch", "ema-window", "latest", "stash", "sequential"]


def test_metrics_and_curves_are_of_the_largest_delay_with_a_gap_after_divergence():
    made = [record(s, n) for s in ("stash", "ema-window") for n in (0, 1)]
    made += [record("latest", diverged=True), record("sequential"), record("stash", 2) | {"delays": [2, 0]}]
    accuracy = {"stash": 82.5, "rules": 82.5, "latest": None, "sequential": 80.0}
    assert metrics(made) == {"runs": 7, "diverged": 1, "accuracy": accuracy}
    rows = curves(made)["mlp"]
    assert rows[0] == {"epoch": 0, "stash": 0.5, "ema-window": 0.5, "latest": 0.5, "sequential": 0.5}
    assert rows[1]["latest"] is None


def test_it_describes_the_experiment_and_says_which_records_were_used_and_which_were_not(grid, tmp_path, capsys):
    arguments = [str(tmp_path / "small.yaml"), "--records", str(grid.folder), "--out", str(tmp_path / "tables")]
    with pytest.raises(UserError, match=r"no run of small in .*; first run: python -m experiments\.run small"):
        collect.main(arguments)
    finish(grid, missing=["latest"])
    other, loose = (grid.folder / "runs" / "mlp-3" / f"none-s{seed}.json" for seed in (0, 1))
    cell_file.write(other, record())
    loose.touch()
    collect.main(arguments)
    output = capsys.readouterr().out
    assert f"6 of 8 runs of small collected in {tmp_path / 'tables'}\n" in output
    assert f"records used: 6; skipped: 2, which are no runs of it: {cell_file.place(other)}, {loose}\n" in output
    found = json.loads((tmp_path / "tables" / "experiment.json").read_text())
    expected = {"name": "small", "network": "mlp", "dataset": "digits", "width": 8, "epochs": 2, "published": False}
    expected |= {"planned": 8, "finished": 6, "group_sizes": [3], "stages": None}
    report = {"equivalence_margin_points": 5, "significance_level": 0.05, "image_guard": False}
    assert (expected | {"report": report}).items() <= found.items()


def test_a_damaged_record_is_named_and_no_table_is_made(grid, tmp_path):
    finish(grid)
    path = grid.folder / grid.tasks[0].path
    file, place = path.parent / cell_file.FILE, cell_file.place(path)
    file.write_text(file.read_text().replace('"val_loss":2.0', '"val_loss":2.1', 1))
    with pytest.raises(UserError, match=rf"^of 8 records 1 can't be used; the first: record {place}: .* checksum"):
        collect.collect(grid, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_record_whose_network_is_a_path_writes_nothing_anywhere(grid, tmp_path):
    finish(grid)
    task, before = grid.tasks[0], sorted(tmp_path.rglob("*"))
    config = task.config.to_dict() | {"network": "../../up"}
    cell_file.write(grid.folder / task.path, record("sequential") | {"config": config})
    with pytest.raises(UserError, match=r"config\.network: name is '\.\./\.\./up'; give a name"):
        collect.collect(grid, tmp_path / "a" / "b" / "tables")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", COLLECTED)
def test_the_committed_tables_are_those_of_the_committed_records(name, tmp_path, capsys):
    experiment = read_experiment(name)
    records, committed = (ROOT / folder.format(name=name) for folder in (experiment.records, experiment.tables))
    collect.main([name, "--records", str(records), "--out", str(tmp_path)])
    assert f"runs of {name} collected in" in capsys.readouterr().out
    assert _contents(committed) == _contents(tmp_path)


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
