"""Tables from records."""

import csv
import json

import pytest

from experiments import collect
from experiments.study.tables import TABLES, curves, metrics, write_tables
from layerpipe2.runs.records import write_json
from tests.made_records import record


@pytest.fixture
def records():
    made = [record(s, n) for s in ("stash", "ema-window") for n in (0, 1)]
    return [*made, record("latest", diverged=True), record("sequential")]


def _read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_table_has_its_columns_and_rows(records, tmp_path):
    write_tables(records, tmp_path)
    tables = {name: _read(tmp_path / f"{name}.csv") for name in TABLES}
    assert {name: len(rows) for name, rows in tables.items()} == {
        "runs": 6,
        "epochs": 11,
        "stages": 4,
        "reconstruction": 2,
    }
    for name, rows in tables.items():
        assert list(rows[0]) == TABLES[name][0]
    diverged = next(row for row in tables["runs"] if row["strategy"] == "latest")
    assert (diverged["status"], diverged["diverged_epoch"], diverged["test_accuracy"]) == ("diverged", "0", "")
    assert tables["stages"][0] == {"network": "mlp", "group_size": "3", "stage": "0", "delay": "4", "parameters": "10"}
    assert tables["reconstruction"][0]["strategy"] == "ema-window"


def test_metrics_count_runs_and_average_over_seeds(records):
    found = metrics(records)
    assert (found["runs"], found["diverged"]) == (6, 1)
    accuracy = found["test_accuracy"]["mlp"]
    assert accuracy["stash"] == pytest.approx(0.825)
    assert accuracy["latest"] is None
    assert accuracy["sequential"] == pytest.approx(0.8)


def test_curves_have_a_column_per_strategy_and_a_gap_after_divergence(records):
    rows = curves(records)["mlp"]
    assert rows[0] == {"epoch": 0, "stash": 0.5, "ema-window": 0.5, "latest": 0.5, "sequential": 0.5}
    assert rows[1]["latest"] is None


def test_metrics_and_curves_are_of_the_largest_delay(records):
    shallow = record("stash", 2)
    shallow["delays"] = [2, 0]
    assert metrics([*records, shallow])["test_accuracy"]["mlp"]["stash"] == pytest.approx(0.825)


def test_collect_reads_a_folder_and_says_what_it_did(records, tmp_path, capsys):
    for number, made in enumerate(records):
        write_json(tmp_path / "runs" / "mlp-3" / f"{number}.json", made)
    collect.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    assert "6 runs collected" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["runs"] == 6
