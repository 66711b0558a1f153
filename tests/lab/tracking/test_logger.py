"""`layerpipe2 train --mlflow`: a run can be seen while it trains, and is closed however it ends."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from layerpipe2.cli import main
from layerpipe2.errors import UserError
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.tracking import database as databases
from layerpipe2.lab.tracking.database import connect
from layerpipe2.lab.tracking.description import TRAIN, RunDescription
from layerpipe2.lab.tracking.logger import RunLogger
from tests.chaos.processes import ended, fork
from tests.made_records import record
from tests.sampling import slow

TRAINED = ["train", "--quiet", "--epochs", "2", "--group-size", "3", "--strategy", "ema-window", "--width", "8"]


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database without runs, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("empty")
    connect(str(folder / "mlflow.db"))
    return folder / "mlflow.db"


@pytest.fixture
def database(tmp_path, empty):
    return shutil.copyfile(empty, tmp_path / "mlflow.db")


@pytest.fixture
def logger(database):
    made = record("ema-window")
    return RunLogger(str(database), RunDescription(TRAIN, TRAIN, made["config"], made["delays"], {"seed"}))


def _runs(database):
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("layerpipe2/train")
    return client, list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_two_runs_at_once_are_both_there_with_the_numbers_of_their_records(tmp_path, database):
    out = tmp_path / "0.json"
    other = fork(lambda: main([*TRAINED, "--mlflow", str(database), "--seed", "1"]), tmp_path / "said")
    assert main([*TRAINED, "--mlflow", str(database), "--out", str(out)]) == 0
    assert ended(other) == 0
    client, runs = _runs(database)
    assert {run.info.run_name: run.info.status for run in runs} == {
        "ema-window x3 s0 mlp digits": "FINISHED",
        "ema-window x3 s1 mlp digits": "FINISHED",
    }
    run, made = next(run for run in runs if run.data.params["seed"] == "0"), read_record(out)
    for name, times in (("val_accuracy", 100), ("train_loss", 1), ("lr", 1)):
        points = client.get_metric_history(run.info.run_id, f"epoch/{name}")
        expected = [(row["epoch"], pytest.approx(times * row[name], rel=1e-4)) for row in made["epochs"]]
        assert [(point.step, point.value) for point in points] == expected
    assert run.data.metrics["final/test_accuracy"] == pytest.approx(100 * made["test"]["accuracy"], abs=1e-3)
    (path,) = client.list_artifacts(run.info.run_id)
    assert read_record(Path(client.download_artifacts(run.info.run_id, path.path))) == made


def test_a_run_is_there_while_it_trains_and_waits_for_no_copying_of_records(database, logger):
    with databases.locked(database), logger:
        logger.log_metrics({"train_loss": 2.0, "epoch": 0, "test_loss": 1.0})
        (run,) = _runs(database)[1]
        assert (run.info.status, run.data.metrics) == ("RUNNING", {"epoch/train_loss": 2.0})
        logger.finish(record("ema-window"))
    (run,) = _runs(database)[1]
    assert (run.info.status, run.data.metrics["final/test_accuracy"]) == ("FINISHED", 80)


@pytest.mark.parametrize(
    ("end", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_that_does_not_finish_says_how_it_ended(database, logger, end, status):
    with pytest.raises(end), logger:
        raise end
    assert [run.info.status for run in _runs(database)[1]] == [status]


def test_an_error_along_the_way_is_told_at_the_end_and_training_goes_on(database, logger, monkeypatch):
    calls = []

    def refuse(*arguments, **options):
        calls.append(arguments)
        raise MlflowException("database is locked\n(and more)")

    def train():
        with logger:
            monkeypatch.setattr(logger._client, "log_batch", refuse)
            for epoch in range(2):
                logger.log_metrics({"val_loss": 1.0, "epoch": epoch})
            logger.finish(record("ema-window"))

    with pytest.raises(UserError, match=r"mlflow\.db: database is locked; make room, or give the name of"):
        train()
    assert len(calls) == 1


def _no_database(path):
    path.write_text("no database")


def _cut_off(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE a (b TEXT); CREATE TABLE c (d TEXT)")
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder; give the name of a file"),
        (lambda path: path.parent.rmdir(), "there is no folder"),
        (_no_database, "file is not a database; make room, or give the name of another file"),
        (_cut_off, "database disk image is malformed; make room, or give the name of another file"),
    ],
)
def test_what_cannot_be_written_is_one_line_before_training_and_leaves_nothing(tmp_path, capsys, make, message):
    place = tmp_path / "below" / "mlflow.db"
    place.parent.mkdir()
    make(place)
    before = sorted(tmp_path.rglob("*"))
    assert main([*TRAINED, "--mlflow", str(place), "--out", str(tmp_path / "out.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_locked_database_is_one_line_before_training(database, capsys, monkeypatch):
    monkeypatch.setattr(databases, "_PATIENCE", 0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert main([*TRAINED, "--mlflow", str(database)]) == 2
    assert capsys.readouterr().err.endswith("database is locked; make room, or give the name of another file\n")
    assert not _runs(database)[1]


def test_a_database_that_was_killed_while_it_was_made_is_made_anew(tmp_path):
    (tmp_path / "mlflow.db").touch()  # as sqlite leaves it
    (tmp_path / "mlflow.db.new").write_text("half of one")
    connect(str(tmp_path / "mlflow.db"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


@slow
def test_a_server_that_is_not_there_is_one_line_before_training(tmp_path, capsys):
    out = tmp_path / "run.json"
    assert main([*TRAINED, "--mlflow", "http://127.0.0.1:9", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("start the server, or give another address")
    assert not out.exists()


def test_without_mlflow_the_remedy_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(databases, "find_spec", lambda name: None)
    assert main([*TRAINED, "--mlflow", str(tmp_path / "mlflow.db")]) == 2
    assert "run `pip install '.[tracking]'` in" in capsys.readouterr().err
