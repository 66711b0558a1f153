"""Every strategy is tuned alike, whoever does the trials, and final runs have what was chosen."""

import json

import pytest

from experiments import run as runs
from experiments import tune
from experiments.accuracy.grid import TUNED as CHOICE
from experiments.collect import main as collect
from layerpipe2.errors import UserError
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.tuning.study import open_existing, work
from tests.lab.tuning.studies import diverged, made_up, runs_are
from tests.sampling import slow
from tests.small_experiments import REPORT, UNTUNED, read_rows, small, write_experiment

SPACE: dict = UNTUNED | {
    "group_sizes": [3, 5],
    "optimizer_settings": {"sgd": {"optimizer": "sgd"}},
    "tuning": {"seeds": [100], "space": {"lr": "log:0.02:0.2"}, "trials": 3, "pruner": "none", "moves": 1},
    "times_apart": True,
}


def tuned(folder, *options, **changes):
    """Tune in a folder of its own; the rows of the table."""
    folder.mkdir(exist_ok=True)
    tune.main([write_experiment(folder, SPACE, **changes), "--out", str(folder / "out"), "--quiet", *options])
    return read_rows(folder / "out" / "tuning.csv")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    return folder, tuned(folder, "--jobs", "1")


def test_all_strategies_have_the_same_space_number_of_trials_and_pruner(once):
    folder, rows = once
    first = [row for row in rows if row["round"] == "0"]
    assert {row["strategy"] for row in first} == {"sequential", "stash", "latest"}
    for strategy in ("sequential", "stash", "latest"):
        mine = [row for row in first if row["strategy"] == strategy]
        assert [row["trial"] for row in mine] == ["0", "1", "2"]
        assert all(0.02 <= float(row["lr"]) <= 0.2 for row in mine)
    studies = [open_existing(path.parent).settings for path in (folder / "out" / "tune").rglob("journal.log")]
    alike = {(str(one.space), one.trials, one.pruner, one.sampler, one.seed, one.objectives) for one in studies}
    assert len(alike) == 1 < len(studies)
    # The first trials don't depend on what came out, so all strategies try the same values.
    assert len({row["lr"] for row in first if row["trial"] == "0"}) == 1


def test_only_validation_data_are_looked_at_with_a_seed_of_no_final_run(once):
    folder, _ = once
    records = [read_record(path) for path in (folder / "out" / "tune").rglob("*.json")]
    assert records
    assert {(record["test"], record["config"]["seed"]) for record in records} == {(None, 100)}
    with pytest.raises(UserError, match=r"tuning\.seeds has 1, the seed of final runs"):
        small(folder, SPACE, tuning=SPACE["tuning"] | {"seeds": [1]})


@slow
def test_the_choice_does_not_depend_on_the_number_of_processes(tmp_path):
    many = SPACE["tuning"] | {"trials": 6, "pruner": "median"}  # three that learn from the others
    settings = SPACE["settings"] | {"epochs": 3}
    found = [tuned(tmp_path / jobs, "--jobs", jobs, tuning=many, settings=settings) for jobs in ("1", "2")]
    assert found[0] == found[1]
    assert (tmp_path / "1" / "out" / CHOICE).read_bytes() == (tmp_path / "2" / "out" / CHOICE).read_bytes()


@pytest.mark.parametrize(("high", "flagged"), [(0.06, False), (0.002, True)])
def test_a_range_is_moved_to_a_best_value_at_its_end_and_flagged_if_that_is_not_enough(
    high, flagged, tmp_path, monkeypatch, capsys
):
    """Made-up runs, the better the nearer to the rate 0.1."""
    monkeypatch.setattr(tune, "_do", lambda name, studies, jobs: work(studies))
    tuning = SPACE["tuning"] | {"space": {"lr": f"log:0.001:{high}"}, "trials": 10}
    with runs_are(made_up, monkeypatch):
        rows = tuned(tmp_path, strategies=["stash"], tuning=tuning)
    best, said = json.loads((tmp_path / "out" / CHOICE).read_text())["mlp"], capsys.readouterr().err
    assert {row["round"] for row in rows} == {"0", "1"}
    for strategy, name in (("sequential", "mlp-sequential/sequential"), ("stash", "mlp-3/stash")):
        mine = [row for row in rows if row["strategy"] == strategy]
        first = max((row for row in mine if row["round"] == "0"), key=_reached)
        assert first["edge"] == "True"
        assert any(float(row["lr"]) > high for row in mine if row["round"] == "1")
        last = max(mine, key=_reached)
        assert best[name]["lr"] == float(last["lr"]) > high
        assert (last["edge"] == "True") == (f"{name}: " in said) == flagged


def test_a_strategy_whose_trials_all_diverge_gets_the_one_that_lasted_longest(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tune, "_do", lambda name, studies, jobs: work(studies))

    def made(trial, config, objectives):
        return (diverged if config.strategy == "latest" else made_up)(trial, config, objectives)

    with runs_are(made, monkeypatch):
        rows = tuned(tmp_path, strategies=["stash", "latest"])
    mine = [row for row in rows if row["strategy"] == "latest"]
    assert {row["status"] for row in mine} == {"diverged"}
    chosen = json.loads((tmp_path / "out" / CHOICE).read_text())["mlp"]
    assert chosen["mlp-3/latest"]["lr"] == float(mine[0]["lr"])
    assert "mlp-3/latest: every trial diverged; the one that lasted longest is chosen" in capsys.readouterr().err


GRID = {"seeds": [100, 101], "space": {"lr": "choice:0.05,0.1,0.2"}, "sampler": "grid", "trials": 3, "pruner": "none"}


def test_of_a_grid_the_point_with_the_best_mean_is_chosen_at_which_no_run_diverged(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "_do", lambda name, studies, jobs: work(studies))

    def made(trial, config, objectives):
        """Nearest to 0.2 is best, where one seed of the latest weights diverges."""
        record = (diverged if config.strategy == "latest" and (config.lr, config.seed) == (0.2, 101) else made_up)(
            trial, config, objectives
        )
        if record["epochs"]:
            record["epochs"][-1]["val_accuracy"] = 0.9 - abs(config.lr - 0.15) - 0.1 * (config.seed == 101)
        return record

    wide = GRID | {"space": {"lr": "choice:0.01,0.05,0.12,0.2,0.4"}, "trials": 5}
    with runs_are(made, monkeypatch):
        rows = tuned(tmp_path, strategies=["stash", "latest"], tuning=wide)
    chosen = json.loads((tmp_path / "out" / CHOICE).read_text())["mlp"]
    assert {name: found["lr"] for name, found in chosen.items()} == dict.fromkeys(chosen, 0.12)
    mine = [row for row in rows if row["strategy"] == "stash"]
    assert [(row["seed"], row["trial"]) for row in mine] == [("100", str(n)) for n in range(5)] + [
        ("101", str(n)) for n in range(5, 10)
    ]
    assert {row["lr"] for row in mine if row["seed"] == "100"} == {row["lr"] for row in mine if row["seed"] == "101"}


def test_a_grid_whose_best_point_is_an_outermost_one_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "_do", lambda name, studies, jobs: work(studies))
    with runs_are(made_up, monkeypatch), pytest.raises(UserError) as caught:
        tuned(tmp_path, strategies=["stash"], tuning=GRID | {"space": {"lr": "choice:0.1,0.3,0.9"}})
    assert "the best lr is 0.1, at an end of the grid" in str(caught.value)
    assert "give tuning.space.lr more choices on that side" in str(caught.value)
    assert not (tmp_path / "out" / CHOICE).exists()
    assert not (tmp_path / "out" / "tuning.csv").exists()


def test_where_the_report_judges_losses_the_lowest_validation_loss_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "_do", lambda name, studies, jobs: work(studies))

    def made(trial, config, objectives):
        record = made_up(trial, config, objectives)
        record["epochs"][-1]["val_loss"] = 0.5 + abs(config.lr - 0.03)  # where the accuracy is not the highest
        return record

    with runs_are(made, monkeypatch):
        rows = tuned(tmp_path, report=REPORT | {"equivalence_margin_nats": 0.02}, strategies=["stash"])
    assert "val_loss" in rows[0]
    assert "val_accuracy" not in rows[0]
    mine = [float(row["lr"]) for row in rows if row["strategy"] == "stash"]
    chosen = json.loads((tmp_path / "out" / CHOICE).read_text())["mlp"]
    assert chosen["mlp-3/stash"]["lr"] == min(mine, key=lambda lr: abs(lr - 0.03))


def _reached(row):
    return float(row["val_accuracy"] or -1)


def test_studies_stay_when_something_fails(once, monkeypatch):
    folder, _ = once
    records = sorted((folder / "out" / "tune").rglob("*.json"))

    def no_room(*arguments):
        raise UserError("no room")

    monkeypatch.setattr(tune, "open_or_make", no_room)
    with pytest.raises(UserError, match="no room"):
        tuned(folder)
    assert sorted((folder / "out" / "tune").rglob("*.json")) == records


def test_final_runs_have_what_was_chosen_and_only_new_ones_are_trained(once, capsys):
    folder, _ = once
    out = folder / "out"
    path = write_experiment(folder, SPACE)
    start = [path, "--out", str(out), "--quiet", "--this-code"]
    runs.main(start)
    grid = small(folder, SPACE)
    chosen = json.loads((out / CHOICE).read_text())["mlp"]
    for task in grid.tasks:
        lr = cell_file.read(out / task.path)["config"]["lr"]
        assert lr == chosen[grid.name(grid.tuned_with(task.cell))]["lr"]
    times = {file: file.stat().st_mtime_ns for file in (out / "times").rglob("*.json")}
    seeds = write_experiment(folder, SPACE, seeds=[0, 1, 2])
    runs.main([seeds, *start[1:]])
    after = {file: file.stat().st_mtime_ns for file in (out / "times").rglob("*.json")}
    assert times.items() < after.items()
    assert {file.name[-7:] for file in after.keys() - times.keys()} == {"s2.json"}
    assert len(cell_file.find(out / "runs")) == len(after)


def test_records_of_other_code_are_trained_again_and_equal_but_for_their_times(once, monkeypatch):
    folder, _ = once
    out = folder / "out"
    start = [write_experiment(folder, SPACE), "--out", str(out), "--quiet", "--jobs", "1"]
    runs.main([*start, "--this-code"])
    path = (out / small(folder, SPACE).tasks[0].path).with_name(cell_file.FILE)
    before, times = path.read_bytes(), out / "times" / small(folder, SPACE).tasks[0].path.relative_to("runs")
    assert b"started" not in before
    assert json.loads(times.read_text())["wall_time_s"] > 0
    monkeypatch.setattr("experiments.accuracy.grid.code_hash", lambda parts: "other")
    kept = path.stat().st_mtime_ns
    runs.main(start)
    assert path.stat().st_mtime_ns == kept
    runs.main([*start, "--this-code"])
    assert path.stat().st_mtime_ns > kept
    assert path.read_bytes() == before


def test_only_the_chosen_runs_records_are_deleted_and_none_without_a_word(tmp_path, monkeypatch):
    flat = SPACE | {"cell": "{network}-{group}-{strategy}", "strategies": ["stash"]}
    path = write_experiment(tmp_path, flat)
    out = ("--out", str(tmp_path / "out"), "--jobs", "1")
    tune.main([path, *out, "--quiet"])
    runs.main([path, *out, "--quiet"])
    records = cell_file.find(tmp_path / "out" / "runs")
    monkeypatch.setattr("experiments.accuracy.grid.code_hash", lambda parts: "other")
    with pytest.raises(UserError, match="no terminal to ask on"):
        runs.main([path, *out, "--this-code"])
    assert cell_file.find(tmp_path / "out" / "runs") == records
    grid = small(tmp_path, flat)
    outdated = {path.name for path in grid.outdated(grid.choose(None, 3))}
    assert outdated == {"mlp-3-stash-s0.json", "mlp-3-stash-s1.json"}
    (tmp_path / "out" / CHOICE).unlink()
    with pytest.raises(UserError, match=r"tuned\.json"):
        runs.main([path, *out, "--quiet", "--this-code"])
    assert cell_file.find(tmp_path / "out" / "runs") == records


def test_without_a_choice_the_remedy_is_named(tmp_path):
    path = write_experiment(tmp_path, SPACE)
    with pytest.raises(UserError, match=r"tuned\.json.* run python -m experiments\.tune small"):
        runs.main([path, "--out", str(tmp_path / "out"), "--quiet"])


def test_tables_say_which_values_lie_where(once):
    folder, _ = once
    path = write_experiment(folder, SPACE)
    runs.main([path, "--out", str(folder / "out"), "--quiet", "--this-code"])
    collect([path, "--records", str(folder / "out"), "--out", str(folder / "tables")])
    rows = read_rows(folder / "tables" / "runs.csv")
    assert not {"commit", "wall_time_s"} & set(rows[0])
    assert {row["strategy"] for row in rows} == {"sequential", "stash", "latest"}
    times = read_rows(folder / "tables" / "times.csv")
    assert all(float(row["wall_time_s"]) > 0 for row in times)
