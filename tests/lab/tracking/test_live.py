"""`layerpipe2 train --mlflow`: a run can be seen while it trains, and is closed however it ends."""

import os
import shutil
import signal
import socket
import time

import pytest
from mlflow.tracking import MlflowClient

from experiments import track
from layerpipe2.cli import main
from layerpipe2.errors import UserError
from layerpipe2.lab.cli import train
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.tracking import live
from layerpipe2.lab.tracking.database import connect
from layerpipe2.lab.tracking.lifetime import HOST
from layerpipe2.lab.tracking.live import Writer
from layerpipe2.lab.tracking.subject import TRAIN, Subject
from tests.chaos.processes import ended, fork
from tests.experiments.running import soon
from tests.forked import Forked
from tests.made_records import record
from tests.sampling import slow

TRAINED = ["train", "--quiet", "--epochs", "2", "--group-size", "3", "--strategy", "ema-window", "--width", "8"]


@pytest.fixture(autouse=True)
def _mlflow_is_imported_once(monkeypatch):
    """Writers are forks of this process, before it opens their database."""
    monkeypatch.setattr(live.subprocess, "Popen", Forked)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    connect(folder / "mlflow.db", folder / "mlartifacts")
    return folder / "mlflow.db"


@pytest.fixture
def database(tmp_path, empty):
    return shutil.copyfile(empty, tmp_path / "mlflow.db")


def _subject(seed=0):
    made = record("ema-window", seed)
    return Subject("train", TRAIN, None, made["config"], made["delays"], {"seed"})


def _runs(database, kind="seed"):
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("layerpipe2/train")
    found = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'") if experiment else []
    return client, list(found)


def test_two_runs_on_a_new_database_are_both_there_with_their_records(tmp_path):
    database, out = tmp_path / "mlflow.db", tmp_path / "0.json"
    other = fork(lambda: main([*TRAINED, "--mlflow", str(database), "--seed", "1"]), tmp_path / "said")
    assert main([*TRAINED, "--mlflow", str(database), "--out", str(out)]) == 0
    assert ended(other) == 0
    client, runs = _runs(database)
    assert {run.info.run_name: run.info.status for run in runs} == {
        "ema-window x3 s0 mlp digits": "FINISHED",
        "ema-window x3 s1 mlp digits": "FINISHED",
    }
    run = next(run for run in runs if run.data.params["seed"] == "0")
    made = read_record(out)
    points = client.get_metric_history(run.info.run_id, "epoch/val_accuracy")
    expected = [(row["epoch"], pytest.approx(100 * row["val_accuracy"], abs=1e-3)) for row in made["epochs"]]
    assert [(point.step, point.value) for point in points] == expected
    assert run.data.metrics["final/test_accuracy"] == pytest.approx(100 * made["test"]["accuracy"], abs=1e-3)
    (path,) = client.list_artifacts(run.info.run_id)
    assert read_record(tmp_path / client.download_artifacts(run.info.run_id, path.path)) == made
    (cell,) = _runs(database, "cell")[1]
    assert (cell.info.status, cell.data.metrics["n/seeds"]) == ("FINISHED", 2)


def test_a_run_is_there_while_it_trains_and_killed_if_its_process_is(database, tmp_path):
    def train_for_long():
        writer = Writer(str(database))
        writer.begin(_subject().entry)
        writer.points([("epoch/val_loss", 2.0, 0)])
        time.sleep(100)

    process = fork(train_for_long, tmp_path / "said")
    (run,) = soon(lambda: [run for run in _runs(database)[1] if run.data.metrics])
    assert (run.info.status, run.data.metrics) == ("RUNNING", {"epoch/val_loss": 2.0})
    os.kill(process, signal.SIGKILL)
    ended(process)
    soon(lambda: [run for run in _runs(database)[1] if run.info.status == "KILLED"])
    soon(lambda: [run for run in _runs(database, "cell")[1] if run.info.status == "KILLED"])


def _killed(writer):
    os.kill(writer._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="the process that writes to MLflow was ended"):
        writer.close()


def test_runs_whose_writers_were_killed_too_are_closed_at_the_next_start_and_by_copying_and_living_ones_are_not(
    database, tmp_path, capsys
):
    first, living, last = (Writer(str(database)) for _ in range(3))
    first.begin(_subject(0).entry)
    living.begin(_subject(1).entry)
    soon(lambda: len(_runs(database)[1]) == 2)
    _killed(first)
    last.begin(_subject(2).entry)
    soon(lambda: len(_runs(database)[1]) == 3)

    def states():
        return {run.info.run_name.removeprefix("ema-window x3 "): run.info.status for run in _runs(database)[1]}

    assert states() == {"s0": "KILLED", "s1": "RUNNING", "s2": "RUNNING"}
    assert {run.data.tags[HOST] for run in _runs(database)[1]} == {socket.gethostname()}
    _killed(last)
    cell_file.write(tmp_path / "runs" / "a.json", record())
    places = ("--runs", tmp_path / "runs", "--larger", tmp_path / "no", "--database", database, "--port", 5001)
    track.main([*map(str, places), "--artifacts", str(tmp_path / "mlartifacts")])
    assert states() == {"s0": "KILLED", "s1": "RUNNING", "s2": "KILLED"}
    assert "train, every run, grouped under its cell:" in capsys.readouterr().out
    living.end("FAILED")


def test_a_run_that_finishes_replaces_those_of_the_same_settings(database):
    for value in (1.0, 2.0):
        writer = Writer(str(database))
        writer.begin(_subject().entry)
        writer.end("FINISHED", points=[("final/test_accuracy", value, 1)], tags={}, files={})
    (run,) = _runs(database)[1]
    assert run.data.metrics == {"final/test_accuracy": 2.0}
    (cell,) = _runs(database, "cell")[1]
    assert cell.data.metrics["final/test_accuracy"] == 2.0


def test_what_is_no_database_is_one_line_before_training(tmp_path, capsys):
    (tmp_path / "mlflow.db").write_text("no database")
    assert main([*TRAINED, "--mlflow", str(tmp_path / "mlflow.db")]) == 2
    assert main([*TRAINED, "--mlflow", str(tmp_path / "no" / "mlflow.db")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("file is not a database; delete it, or give another name")
    assert "there is no folder" in second


def test_a_mistake_after_the_writer_has_started_leaves_no_process(tmp_path, monkeypatch, capsys):
    started = []

    def noted(target):
        started.append(Writer(target))
        return started[0]

    monkeypatch.setattr(train, "Writer", noted)
    assert main([*TRAINED, "--group-size", "10", "--mlflow", str(tmp_path / "mlflow.db")]) == 2
    assert started[0]._process.returncode is not None
    assert "group size for 9 units is 10" in capsys.readouterr().err


@slow
def test_a_server_that_is_not_there_is_one_line_and_the_record_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()  # a new process notices it only after training has begun
    out = tmp_path / "run.json"
    assert main([*TRAINED, "--mlflow", "http://127.0.0.1:9", "--out", str(out)]) == 2
    assert read_record(out)["status"] == "completed"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("start the server, or give another address")


def test_without_mlflow_the_remedy_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    assert main([*TRAINED, "--mlflow", str(tmp_path / "mlflow.db")]) == 2
    assert "run `pip install '.[tracking]'` in" in capsys.readouterr().err
