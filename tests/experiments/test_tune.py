"""Every strategy is tuned alike, whoever does the trials, and final runs have what was chosen."""

import csv
import json

import pytest

from experiments import run as runs
from experiments import tune
from experiments.collect import main as collect
from experiments.grid import TUNED as CHOICE
from layerpipe2.errors import UserError
from layerpipe2.runs.records import read_record
from tests.small_experiments import UNTUNED, small, write_experiment

SPACE: dict = UNTUNED | {
    "group_sizes": [3, 5],
    "optimizer_settings": {"sgd": {"optimizer": "sgd"}},
    "tuning": {"seed": 100, "space": {"lr": "log:0.02:0.2"}, "trials": 3, "pruner": "none", "moves": 1},
    "times_apart": True,
}


def tuned(folder, *options, **changes):
    """Tune in a folder of its own; the rows of the table."""
    folder.mkdir(exist_ok=True)
    tune.main([write_experiment(folder, SPACE, **changes), "--out", str(folder / "out"), "--quiet", *options])
    return table(folder / "out" / "tuning.csv")


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    return folder, tuned(folder, "--jobs", "1")


def test_all_strategies_have_the_same_space_number_of_trials_and_pruner(once):
    _, rows = once
    first = [row for row in rows if row["round"] == "0"]
    assert {row["strategy"] for row in first} == {"sequential", "stash", "latest"}
    for strategy in ("sequential", "stash", "latest"):
        mine = [row for row in first if row["strategy"] == strategy]
        assert [row["trial"] for row in mine] == ["0", "1", "2"]
        assert all(0.02 <= float(row["lr"]) <= 0.2 for row in mine)
    # The first trials don't depend on what came out, so all strategies try the same values.
    assert len({row["lr"] for row in first if row["trial"] == "0"}) == 1


def test_only_validation_data_are_looked_at_with_a_seed_of_no_final_run(once):
    folder, _ = once
    records = [read_record(path) for path in (folder / "out" / "tune").rglob("*.json")]
    assert records
    assert {(record["test"], record["config"]["seed"]) for record in records} == {(None, 100)}
    with pytest.raises(UserError, match=r"tuning\.seed is 1, the seed of final runs"):
        small(folder, SPACE, tuning=SPACE["tuning"] | {"seed": 1})


def test_the_choice_does_not_depend_on_the_number_of_processes(once, tmp_path):
    folder, rows = once
    assert tuned(tmp_path, "--jobs", "2") == rows
    assert (tmp_path / "out" / CHOICE).read_bytes() == (folder / "out" / CHOICE).read_bytes()


def test_a_range_is_moved_to_a_best_value_at_its_end_and_all_is_in_the_table(tmp_path):
    rows = tuned(tmp_path, strategies=["stash"], tuning=SPACE["tuning"] | {"space": {"lr": "log:0.0001:0.0002"}})
    spaces = {(row["strategy"], row["round"]) for row in rows}
    best = json.loads((tmp_path / "out" / CHOICE).read_text())["mlp"]
    grid = small(tmp_path, SPACE, strategies=["stash"])
    for strategy in ("sequential", "stash"):
        first = max((row for row in rows if (row["strategy"], row["round"]) == (strategy, "0")), key=_reached)
        at_the_end = float(first["lr"]) > 0.0001 * 2**0.95 or float(first["lr"]) < 0.0001 * 2**0.05
        assert ((strategy, "1") in spaces) == at_the_end
        cell = next(cell for cell in grid.cells if cell.strategy == strategy)
        all_rounds = max((row for row in rows if row["strategy"] == strategy), key=_reached)
        assert best[grid.name(grid.tuned_with(cell))]["lr"] == float(all_rounds["lr"])


def _reached(row):
    return float(row["val_accuracy"] or -1)


def test_final_runs_have_what_was_chosen_and_only_new_ones_are_trained(once, capsys):
    folder, _ = once
    out = folder / "out"
    path = write_experiment(folder, SPACE)
    start = [path, "--out", str(out), "--quiet", "--this-code"]
    runs.main(start)
    grid = small(folder, SPACE)
    chosen = json.loads((out / CHOICE).read_text())["mlp"]
    for task in grid.tasks:
        lr = read_record(out / task.path)["config"]["lr"]
        assert lr == chosen[grid.name(grid.tuned_with(task.cell))]["lr"]
    times = {record: record.stat().st_mtime_ns for record in (out / "runs").rglob("*.json")}
    seeds = write_experiment(folder, SPACE, seeds=[0, 1, 2])
    runs.main([seeds, *start[1:]])
    after = {record: record.stat().st_mtime_ns for record in (out / "runs").rglob("*.json")}
    assert times.items() < after.items()
    assert {record.name[-7:] for record in after.keys() - times.keys()} == {"s2.json"}


def test_records_of_other_code_are_trained_again_and_equal_but_for_their_times(once, monkeypatch):
    folder, _ = once
    out = folder / "out"
    start = [write_experiment(folder, SPACE), "--out", str(out), "--quiet", "--jobs", "1"]
    runs.main([*start, "--this-code"])
    path = out / small(folder, SPACE).tasks[0].path
    before, times = path.read_bytes(), out / "times" / path.relative_to(out / "runs")
    assert b"started" not in before
    assert json.loads(times.read_text())["wall_time_s"] > 0
    monkeypatch.setattr("experiments.grid.code_hash", lambda: "other")
    runs.main(start)
    assert path.stat().st_mtime_ns == (kept := path.stat().st_mtime_ns)
    runs.main([*start, "--this-code"])
    assert path.stat().st_mtime_ns > kept
    assert path.read_bytes() == before


def test_without_a_choice_the_remedy_is_named(tmp_path):
    path = write_experiment(tmp_path, SPACE)
    with pytest.raises(UserError, match=r"tuned\.json.* run python -m experiments\.tune small"):
        runs.main([path, "--out", str(tmp_path / "out"), "--quiet"])


def test_tables_say_which_values_lie_where(once):
    folder, _ = once
    path = write_experiment(folder, SPACE)
    runs.main([path, "--out", str(folder / "out"), "--quiet", "--this-code"])
    collect([path, "--records", str(folder / "out"), "--out", str(folder / "tables")])
    rows = table(folder / "tables" / "runs.csv")
    assert not {"commit", "wall_time_s"} & set(rows[0])
    assert {row["strategy"] for row in rows} == {"sequential", "stash", "latest"}
    times = table(folder / "tables" / "times.csv")
    assert all(float(row["wall_time_s"]) > 0 for row in times)
