"""Copies of records in MLflow: once each, never left running."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from mlflow.tracking import MlflowClient

from experiments import track as tracking
from layerpipe2.errors import UserError
from layerpipe2.runs.records import fingerprint, read_record, write_record
from tests.made_records import record
from tests.small_experiments import ROOT


@pytest.fixture
def place(tmp_path):
    return tmp_path / "mlflow.db", tmp_path / "artifacts"


def _history(client, run, metric):
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def _runs(place):
    client = MlflowClient(f"sqlite:///{place[0]}")
    experiment = client.get_experiment_by_name("layerpipe2/digits")
    return client, list(client.search_runs([experiment.experiment_id]))


def test_a_record_is_copied_whole_and_once(place):
    made = record("ema-window", 1)
    assert tracking.track([made], *place)[0] == 1
    assert tracking.track([made], *place)[0] == 0
    client, (run,) = _runs(place)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "mlp g3 ema-window s1"
    assert run.data.tags[tracking.FINGERPRINT] == fingerprint(made)
    assert run.data.params["stage_delays"] == "4 2 0"
    assert run.data.params["strategy"] == "ema-window"
    assert run.data.metrics["test_accuracy"] == made["test"]["accuracy"]
    assert _history(client, run, "val_accuracy") == [(0, 0.5), (1, 0.75)]
    assert (run.info.start_time, run.info.end_time) == (1767225600000, 1767225602000)  # 2026-01-01 UTC, two seconds
    assert "delays" not in run.data.params  # they follow from the convention
    assert "probed" not in run.data.tags
    assert not [name for name in run.data.metrics if name.startswith("reconstruction_error")]
    copy = client.download_artifacts(run.info.run_id, "record.json")
    assert read_record(Path(copy)) == made


def test_a_probed_run_is_marked_and_has_its_errors_by_delay(place):
    made = record()
    (row,) = made["reconstruction"]
    later = {"stage": 1, "delay": 2, "relative_error": 0.125}
    unmeasured = {"strategy": "ema-lsq", "relative_error": None, "n": 0}
    made["reconstruction"] = [row, row | later, row | unmeasured]
    tracking.track([made], *place)
    client, (run,) = _runs(place)
    assert run.data.tags["probed"] == "true"
    assert _history(client, run, "reconstruction_error/ema-window") == [(2, 0.125), (4, 0.25)]
    assert run.data.metrics["reconstruction_error/ema-window"] == 0.25
    assert "reconstruction_error/ema-lsq" not in run.data.metrics


def test_stages_of_equal_delay_keep_an_error_each(place):
    made = record(convention="custom", delays=(4, 4, 0))
    (row,) = made["reconstruction"]
    made["reconstruction"] = [row, row | {"stage": 1, "relative_error": 0.5}]
    tracking.track([made], *place)
    client, (run,) = _runs(place)
    assert run.data.params["delays"] == "[4, 4, 0]"
    assert _history(client, run, "reconstruction_error/ema-window") == [(4, 0.25), (4, 0.5)]


def test_a_diverged_run_is_a_finished_copy(place):
    tracking.track([record("latest", diverged=True)], *place)
    _, (run,) = _runs(place)
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "diverged")
    assert run.data.metrics["diverged_epoch"] == 0
    assert "test_accuracy" not in run.data.metrics


def test_a_copy_that_was_cut_off_is_closed_and_made_again(place, monkeypatch):
    made = record()

    def cut_off(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tracking.track([made], *place)
    _, (run,) = _runs(place)
    assert run.info.status == "KILLED"
    with monkeypatch.context() as patch:  # killed harder: nobody closes the run
        patch.setattr(MlflowClient, "log_artifact", cut_off)
        patch.setattr(MlflowClient, "set_terminated", lambda *arguments, **options: None)
        with pytest.raises(KeyboardInterrupt):
            tracking.track([made], *place)
    assert tracking.track([made], *place)[0] == 1
    _, (run,) = _runs(place)
    assert run.info.status == "FINISHED"


KILLED = """
import os, sys
from pathlib import Path
from alembic.script import ScriptDirectory
from experiments import track

def ends(*arguments, **options):
    os._exit(1)

track.MlflowClient = None  # which would come later
ScriptDirectory.run_env = ends  # the tables are there, and about to be brought up to date
track.track([], Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_database_that_was_killed_while_it_was_made_is_made_anew_by_one_of_two(place):
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *place], env=environment, check=False)
    assert killed.returncode == 1
    assert not place[0].exists()
    assert place[0].with_name("mlflow.db.new").stat().st_size > 0
    place[0].touch()  # as sqlite leaves it, too
    made, found = [record("latest", seed) for seed in range(3)], []
    threads = [Thread(target=lambda: found.append(tracking.track(made, *place)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 3]
    assert len(_runs(place)[1]) == 3
    assert sorted(path.name for path in place[0].parent.iterdir()) == ["artifacts", "mlflow.db", "mlflow.db.lock"]


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"no database"])
def test_a_database_that_is_not_whole_is_one_line(place, damage):
    with closing(sqlite3.connect(place[0])) as connection:
        connection.executescript("CREATE TABLE numbers (number INT); INSERT INTO numbers VALUES (1)")
    place[0].write_bytes(damage(place[0].read_bytes()))
    message = r"database .*mlflow\.db: .*; make room, or delete it: it holds nothing but copies of the records$"
    with pytest.raises(UserError, match=message):
        tracking.track([record()], *place)


def test_a_half_made_database_is_one_line(place):
    with closing(sqlite3.connect(place[0])) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    with pytest.raises(UserError, match=r"database .*mlflow\.db: [^\n]*; make room, or delete it: it holds nothing"):
        tracking.track([record()], *place)


def test_a_place_that_cannot_be_written_is_one_line_at_once(place):
    for database, artifacts in ((Path("/proc/mlflow.db"), place[1]), (place[0], Path("/proc/artifacts"))):
        with pytest.raises(UserError, match=r"output folder /proc(/artifacts)? can't be "):
            tracking.track([record()], database, artifacts)


def test_the_script_counts_what_is_new(place, tmp_path, capsys):
    write_record(tmp_path / "runs" / "a.json", record())
    arguments = ["--runs", str(tmp_path / "runs"), "--database", str(place[0]), "--artifacts", str(place[1])]
    tracking.main([*arguments, "--summary", str(tmp_path / "tracked.json")])
    tracking.main(arguments)
    assert json.loads((tmp_path / "tracked.json").read_text()) == {"records": 1}
    first, second = capsys.readouterr().out.strip().split("\n")  # no links without a port
    assert first.startswith("1 of 1 runs were new")
    assert second.startswith("0 of 1 runs were new")


def test_the_script_prints_a_link_to_every_table_of_runs(place, tmp_path, capsys):
    for name in ("digits", "cifar10"):
        write_record(tmp_path / "runs" / f"{name}.json", record(dataset=name))
    arguments = ["--runs", str(tmp_path / "runs"), "--database", str(place[0]), "--artifacts", str(place[1])]
    tracking.main([*arguments, "--port", "5017"])
    client = MlflowClient(f"sqlite:///{place[0]}")
    expected = []
    for name in ("layerpipe2/cifar10", "layerpipe2/digits"):
        identity = client.get_experiment_by_name(name).experiment_id
        expected.append(f"{name}: http://127.0.0.1:5017/#/experiments/{identity}?workflowType=machine_learning")
    assert capsys.readouterr().out.splitlines()[1:] == expected


def test_make_ui_serves_the_port_of_its_links():
    makefile = (Path(tracking.__file__).parents[1] / "Makefile").read_text()
    recipe = makefile.partition("\nui:")[2].partition("\n\n")[0]
    assert recipe.count("--port $(or $(PORT),5000)") == 2
