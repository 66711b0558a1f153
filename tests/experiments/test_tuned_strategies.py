"""Every strategy is tuned alike, whoever does the trials, and final runs have what was chosen."""

import json

import pytest

from experiments import run as runs
from experiments import tune
from experiments.accuracy.grid import TUNED as CHOICE
from experiments.accuracy.grid import code_of
from experiments.collect import main as collect
from layerpipe2.errors import UserError
from layerpipe2.lab.provenance import TRAINING
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import read_record, write_json
from layerpipe2.lab.tuning.study import open_existing, work
from layerpipe2.versions import code_hash
from tests.lab.tuning.studies import diverged, made_up, runs_are
from tests.made_records import record
from tests.sampling import slow
from tests.small_experiments import REPORT, UNTUNED, read_rows, small, write_experiment

TUNING: dict = {"seeds": [100], "space": {"lr": "log:0.02:0.2"}, "trials": 3, "pruner": "none", "moves": 1}
SPACE: dict = UNTUNED | {
    "group_sizes": [3, 5],
    "strategies": ["stash"],
    "optimizer_settings": {"sgd": {"optimizer": "sgd"}},
    "tuning": TUNING,
    "times_apart": True,
}


def tuned(folder, *options, **changes):
    """Tune in a folder of its own; the rows of the table, and the choice for the network."""
    folder.mkdir(exist_ok=True)
    tune.main([write_experiment(folder, SPACE, **changes), "--out", str(folder / "out"), "--quiet", *options])
    return read_rows(folder / "out" / "tuning.csv"), json.loads((folder / "out" / CHOICE).read_text())["mlp"]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with the studies of two strategies, and the rows of their table."""
    folder = tmp_path_factory.mktemp("tune")
    return folder, tuned(folder, "--jobs", "1", tuning=TUNING | {"trials": 2, "moves": 0})[0]


def test_all_strategies_have_the_same_space_number_of_trials_and_pruner_and_no_final_seed(once):
    folder, rows = once
    for strategy in ("sequential", "stash"):
        mine = [row for row in rows if row["strategy"] == strategy]
        assert [(row["round"], row["trial"], row["seed"]) for row in mine] == [("0", "0", "100"), ("0", "1", "100")]
        assert all(0.02 <= float(row["lr"]) <= 0.2 for row in mine)
    studies = [open_existing(path.parent).settings for path in (folder / "out" / "tune").rglob("journal.log")]
    alike = {(str(one.space), one.trials, one.pruner, one.sampler, one.seed, one.objectives) for one in studies}
    assert (len(alike), len(studies)) == (1, 2)
    # The first trials don't depend on what came out, so all strategies try the same values.
    assert len({row["lr"] for row in rows if row["trial"] == "0"}) == 1
    records = [read_record(path) for path in (folder / "out" / "tune").rglob("*.json")]
    assert {(found["test"], found["config"]["seed"]) for found in records} == {(None, 100)}  # validation data alone
    with pytest.raises(UserError, match=r"tuning\.seeds has 1, the seed of final runs"):
        small(folder, SPACE, tuning=TUNING | {"seeds": [1]})


@slow
def test_the_choice_does_not_depend_on_the_number_of_processes(tmp_path):
    many = TUNING | {"trials": 6, "pruner": "median"}  # three that learn from the others
    settings = SPACE["settings"] | {"epochs": 3}
    found = [tuned(tmp_path / jobs, "--jobs", jobs, tuning=many, settings=settings) for jobs in ("1", "2")]
    assert found[0] == found[1]
    assert (tmp_path / "1" / "out" / CHOICE).read_bytes() == (tmp_path / "2" / "out" / CHOICE).read_bytes()


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Tunes with made-up runs, the better the nearer to the rate 0.1, in this process; ``change`` changes a record."""
    monkeypatch.setattr(tune, "_do", lambda name, studies, jobs: work(studies))

    def search(change=lambda config, made: None, lost=lambda config: False, **changes):
        def made(trial, config, objectives):
            found = (diverged if lost(config) else made_up)(trial, config, objectives)
            change(config, found["epochs"][-1])
            return found

        with runs_are(made, monkeypatch):
            return tuned(tmp_path, **changes)

    return search


@pytest.mark.parametrize(("high", "flagged"), [(0.06, False), (0.002, True)])
def test_a_range_is_moved_to_a_best_value_at_its_end_and_flagged_if_that_is_not_enough(high, flagged, search, capsys):
    rows, best = search(tuning=TUNING | {"space": {"lr": f"log:0.001:{high}"}, "trials": 10})
    said = capsys.readouterr().err
    assert {row["round"] for row in rows} == {"0", "1"}
    for strategy, name in (("sequential", "mlp-sequential/sequential"), ("stash", "mlp-3/stash")):
        mine = [row for row in rows if row["strategy"] == strategy]
        first, last = (max((row for row in mine if row["round"] in seen), key=_reached) for seen in ("0", "01"))
        assert first["edge"] == "True"
        assert any(float(row["lr"]) > high for row in mine if row["round"] == "1")
        assert best[name]["lr"] == float(last["lr"]) > high
        assert (last["edge"] == "True") == (f"{name}: " in said) == flagged


def _reached(row):
    return float(row["val_accuracy"] or -1)


def test_a_strategy_whose_trials_all_diverge_gets_the_one_that_lasted_longest(search, capsys):
    rows, chosen = search(lost=lambda config: config.strategy == "latest", strategies=["stash", "latest"])
    mine = [row for row in rows if row["strategy"] == "latest"]
    assert {row["status"] for row in mine} == {"diverged"}
    assert chosen["mlp-3/latest"]["lr"] == float(mine[0]["lr"])
    assert "mlp-3/latest: every trial diverged; the one that lasted longest is chosen" in capsys.readouterr().err


GRID = {"seeds": [100, 101], "space": {"lr": "choice:0.05,0.1,0.2"}, "sampler": "grid", "trials": 3, "pruner": "none"}


def test_of_a_grid_the_point_with_the_best_mean_is_chosen_at_which_no_run_diverged(search):
    def nearest_to_015(config, last):
        last["val_accuracy"] = 0.9 - abs(config.lr - 0.15) - 0.1 * (config.seed == 101)

    wide = GRID | {"space": {"lr": "choice:0.01,0.05,0.12,0.2,0.4"}, "trials": 5}
    rows, chosen = search(
        nearest_to_015,
        lambda config: (config.strategy, config.lr, config.seed) == ("latest", 0.2, 101),
        strategies=["stash", "latest"],
        tuning=wide,
    )
    assert {name: found["lr"] for name, found in chosen.items()} == dict.fromkeys(chosen, 0.12)
    mine = [row for row in rows if row["strategy"] == "stash"]
    assert [row["trial"] for row in mine] == [str(n) for n in range(10)]
    assert [row["seed"] for row in mine] == ["100"] * 5 + ["101"] * 5
    assert {row["lr"] for row in mine[:5]} == {row["lr"] for row in mine[5:]}


def test_a_grid_whose_best_point_is_an_outermost_one_is_refused_and_nothing_is_written(search, tmp_path):
    message = "the best lr is 0.1, at an end of the grid, .*; give tuning.space.lr more choices on that side"
    with pytest.raises(UserError, match=message):
        search(tuning=GRID | {"space": {"lr": "choice:0.1,0.3,0.9"}})
    assert not (tmp_path / "out" / CHOICE).exists()
    assert not (tmp_path / "out" / "tuning.csv").exists()


LISTED = {
    "seeds": [100, 101],
    "space": {"lr": "choice:0.05,0.1,0.2"},
    "sampler": "listed",
    "trials": 3,
    "pruner": "none",
}
ROWS = {"dc-asgd": ["dc-asgd-1", "dc-asgd-4", "dc-asgd-2"]}


def test_a_row_with_a_number_has_as_many_trials_as_the_others_and_the_front_alone_has_final_runs(search, tmp_path):
    best = {"dc-asgd-4": 0.9, "feedback": 0.8, "t2": 0.7}

    def by_row(config, last):
        last["val_accuracy"] = best.get(config.strategy, 0.5) - 0.1 * (config.lr == 0.05)

    changes = {"strategies": ["stash", "t2", "dc-asgd", "feedback"], "tuning": LISTED | {"rows": ROWS}, "front": 2}
    rows, chosen = search(by_row, **changes)
    mine = [(row["strategy"], row["lr"]) for row in rows if row["strategy"].startswith("dc-asgd")]
    assert mine == 2 * [("dc-asgd-1", "0.05"), ("dc-asgd-4", "0.1"), ("dc-asgd-2", "0.2")]
    assert chosen["mlp-3/dc-asgd"] == {"lr": 0.1, "strategy": "dc-asgd-4"}
    grid = small(tmp_path, SPACE, **changes)
    deepest = dict.fromkeys(grid.ready(task).strategy for task in grid.tasks if task.cell.stages == 3)
    assert list(deepest) == ["stash", "dc-asgd-4", "feedback"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": LISTED | {"rows": {"dc-asgd": ["dc-asgd-1"]}}}, r"rows\.dc-asgd has 1 names; give sampler: listed"),
        ({"strategies": ["stash", "dc-asgd"], "tuning": LISTED}, "needs its lambda_0; give the number"),
        ({"tuning": None, "front": 2}, "front needs a search"),
    ],
    ids=["too few", "no number", "no search"],
)
def test_rows_and_fronts_that_are_none_are_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        small(tmp_path, SPACE, **changes)


def test_the_code_of_a_run_is_that_of_the_field_too_where_it_has_a_row_of_it():
    plain, row, optimizer = (code_of(RunConfig(**given)) for given in ({}, {"strategy": "t2"}, {"optimizer": "muon"}))
    assert plain == code_hash(TRAINING)
    assert row == optimizer != plain
    assert row.startswith(plain)


def test_where_the_report_judges_losses_the_lowest_validation_loss_is_chosen(search):
    def best_at_003(config, last):
        last["val_loss"] = 0.5 + abs(config.lr - 0.03)  # where the accuracy is not the highest

    rows, chosen = search(best_at_003, report=REPORT | {"equivalence_margin_nats": 0.02})
    assert ("val_loss" in rows[0], "val_accuracy" in rows[0]) == (True, False)
    mine = [float(row["lr"]) for row in rows if row["strategy"] == "stash"]
    assert chosen["mlp-3/stash"]["lr"] == min(mine, key=lambda lr: abs(lr - 0.03))


def test_studies_stay_when_something_fails(once, monkeypatch):
    folder, _ = once
    records = sorted((folder / "out" / "tune").rglob("*.json"))

    def no_room(*arguments):
        raise UserError("no room")

    monkeypatch.setattr(tune, "open_or_make", no_room)
    with pytest.raises(UserError, match="no room"):
        tuned(folder)
    assert sorted((folder / "out" / "tune").rglob("*.json")) == records


def test_final_runs_have_what_was_chosen_only_new_ones_are_trained_and_those_of_other_code_again(
    once, monkeypatch, tmp_path
):
    folder, _ = once
    out, grid = folder / "out", small(folder, SPACE)
    start = [str(folder / "small.yaml"), "--out", str(out), "--quiet", "--jobs", "1"]

    def times():
        return {file: file.stat().st_mtime_ns for file in (out / "times").rglob("*.json")}

    runs.main([*start, "--this-code"])
    chosen = json.loads((out / CHOICE).read_text())["mlp"]
    for task in grid.tasks:
        lr = cell_file.read(out / task.path)["config"]["lr"]
        assert lr == chosen[grid.name(grid.tuned_with(task.cell))]["lr"]
    before = times()
    write_experiment(folder, SPACE, seeds=[0, 1, 2])
    runs.main([*start, "--this-code"])
    after = times()
    assert before.items() < after.items()
    assert {file.name[-7:] for file in after.keys() - before.keys()} == {"s2.json"}
    assert len(cell_file.find(out / "runs")) == len(after)
    collect([start[0], "--records", str(out), "--out", str(tmp_path)])
    assert not {"commit", "wall_time_s"} & set(read_rows(tmp_path / "runs.csv")[0])
    assert all(float(row["wall_time_s"]) > 0 for row in read_rows(tmp_path / "times.csv"))
    # Of other code, the same but for its times.
    write_experiment(folder, SPACE, seeds=[0])
    path = (out / grid.tasks[0].path).with_name(cell_file.FILE)
    cell_file.remove(path.with_name("sequential-s1.json"))
    cell_file.remove(path.with_name("sequential-s2.json"))
    content, kept = path.read_bytes(), path.stat().st_mtime_ns
    assert b"started" not in content
    monkeypatch.setattr("experiments.accuracy.grid.code_hash", lambda parts: "other")
    runs.main(start)
    assert path.stat().st_mtime_ns == kept
    runs.main([*start, "--this-code", "--group", "sequential"])
    assert path.stat().st_mtime_ns > kept
    assert path.read_bytes() == content


def test_only_the_chosen_runs_records_are_deleted_and_none_without_a_word(tmp_path, monkeypatch):
    flat = SPACE | {"cell": "{network}-{group}-{strategy}"}
    grid, path = small(tmp_path, flat), str(tmp_path / "small.yaml")
    cells = {grid.name(cell): {"lr": 0.1} for cell in grid.cells}
    write_json(grid.folder / CHOICE, {"mlp": cells})
    for task in grid.tasks:
        made = record(task.cell.strategy, task.config.seed) | {"config": grid.ready(task).to_dict()}
        cell_file.write(grid.folder / task.path, made)
    records = cell_file.find(grid.folder / "runs")
    outdated = {path.name for path in grid.outdated(grid.choose(None, 3))}
    assert outdated == {"mlp-3-stash-s0.json", "mlp-3-stash-s1.json"}
    monkeypatch.setattr(runs, "_agreed", lambda *arguments: False)
    with pytest.raises(UserError, match="not confirmed; nothing was started"):
        runs.main([path, "--out", str(grid.folder), "--this-code"])
    assert cell_file.find(grid.folder / "runs") == records
    (grid.folder / CHOICE).unlink()
    with pytest.raises(UserError, match=r"tuned\.json.* run python -m experiments\.tune small"):
        runs.main([path, "--out", str(grid.folder), "--quiet", "--this-code"])
    assert cell_file.find(grid.folder / "runs") == records
