"""``python -m experiments.run``: what is said before it starts, how it stops, and how it goes on."""

import errno
import os
import signal
import tempfile
import time
from multiprocessing import active_children
from threading import Thread

import pytest

from experiments import run
from experiments.accuracy.estimate import Speed
from experiments.accuracy.work import Queue, work
from layerpipe2.cli.console import in_words, run_command
from layerpipe2.errors import UserError
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.runs.train import train_run
from tests.chaos.processes import descendants, processor_s
from tests.experiments.running import alive, kill, serves, start
from tests.sampling import slow
from tests.small_experiments import FEW, UNTUNED, small, write_experiment


def options(folder, content, **changes):
    return [write_experiment(folder, content, **changes), "--out", str(folder / "out")]


def records(folder):
    return cell_file.read_all(folder)


def test_an_experiment_is_run_and_never_redone_and_its_parts_can_be_run_alone(tmp_path, capsys):
    """The records are what a run in this process gives."""
    arguments, grid = options(tmp_path, FEW, jobs=2), small(tmp_path, FEW, jobs=2)
    run.main([*arguments, "--quiet", "--minutes", "0"])
    assert "6 of 6 runs are left; start this again" in capsys.readouterr().out
    run.main([*arguments, "--network", "mlp", "--group", "sequential", "--quiet"])
    found = [str(path.relative_to(tmp_path / "out" / "runs")) for path in records(tmp_path)]
    assert found == ["mlp-sequential/sequential-s0.json", "mlp-sequential/sequential-s1.json"]
    run.main([*arguments, "--yes"])
    captured = capsys.readouterr()
    assert "4 of 6 runs are left: about " in captured.out
    assert "all 6 runs of small are finished" in captured.out
    assert "small: 2/2 runs" in captured.err
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {cell_file.FILE}
    for task in grid.tasks:
        record = grid.record(task)
        assert record["provenance"]["wall_time_s"] > 0
        assert record["provenance"]["versions"]["torch"]
        if task.config.seed == 1:
            expected = train_run(task.config, progress=False)
            assert record | {"provenance": None} == expected | {"provenance": None}
    before = records(tmp_path)
    run.main(arguments)  # nothing is left, so nothing is asked
    assert before == records(tmp_path)


def test_it_says_how_long_it_takes_and_starts_only_if_that_is_confirmed(tmp_path, monkeypatch, capsys):
    arguments, asked = options(tmp_path, UNTUNED), []
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert run_command("experiments.run", run.main, arguments) == 2
    output, errors = capsys.readouterr()
    (line,) = errors.strip().split("\n")
    assert output == ""
    assert line.startswith("experiments.run: error: 10 of 10 runs are left: about ")
    assert " on this machine (2 side by side; sequential " in line
    assert line.endswith("there is no terminal to ask on: give --yes to start")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n" * (len(asked) - 1))
    monkeypatch.setattr("experiments.accuracy.estimate.estimate", lambda left, jobs: (60.0 * len(left), {}))
    for _ in range(2):  # nothing is typed, then "n"
        with pytest.raises(UserError, match="not confirmed; nothing was started"):
            run.main(arguments)
    assert all("10 of 10 runs are left: about 10 min" in text for text in asked)
    assert os.listdir(tmp_path) == ["small.yaml"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--jobs", "0", "argument --jobs: '0' is out of range; give an integer from 1 to 256; see `.* --help`"),
        ("--minutes", "nan", "argument --minutes: 'nan' is out of range; give a number from 0 to 1000000; see .*"),
        ("--group", "4", "small.yaml has no group '4'; known: sequential, 1, 3"),
        ("--group", "\u0663", "small.yaml has no group '\u0663'; known: sequential, 1, 3"),
        ("--bogus", "1", "unknown argument '--bogus'; did you mean '--out'.; see `python -m experiments.run --help`"),
        ("--network", "mpl", "small.yaml has no network 'mpl'; known: mlp"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(tmp_path, option, value, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        run.main([*options(tmp_path, UNTUNED), option, value])


@slow
@pytest.mark.parametrize(("stop", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, "")])
def test_stopping_it_ends_its_workers(tmp_path, stop, code, says):
    write_experiment(tmp_path, UNTUNED, settings={"epochs": 100_000, "width": 8})
    with start(tmp_path, "--quiet") as process:
        pids: list[int] = []
        while sum(processor_s(pid) > 1.5 for pid in pids) < 3:  # the server imports, both workers train
            assert process.poll() is None
            time.sleep(0.05)
            pids = descendants(process.pid)
        process.send_signal(stop) if stop == signal.SIGKILL else os.killpg(process.pid, stop)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert says in errors
    assert "Traceback" not in errors
    while any(map(alive, pids)):
        time.sleep(0.05)


def test_it_ends_with_the_shell_in_which_dvc_started_it_and_says_so(tmp_path):
    write_experiment(tmp_path, UNTUNED)
    with start(tmp_path, "--quiet", dvc=True) as process:
        while not serves(process.pid):
            time.sleep(0.01)
        said = kill(process, process.pid)[1]
    assert said in ("", "experiments: ended, since DVC has ended; finished runs are kept, so start it again\n")
    assert not records(tmp_path)


def test_a_killed_worker_ends_the_others_at_once_in_one_line(tmp_path):
    """Also the one that was started last, which CPython's pool overlooks."""
    grid, found = small(tmp_path, UNTUNED, settings={"epochs": 300, "width": 8}), []
    earlier = set(active_children())

    def kill_the_last():
        while len(found) < 2:  # /proc would list the git of a worker, too
            time.sleep(0.001)
            found[:] = set(active_children()) - earlier
        max(found, key=lambda worker: worker.pid).kill()

    killer = Thread(target=kill_the_last, daemon=True)
    killer.start()
    with pytest.raises(UserError, match=r"^a training process was killed; if memory ran out, lower jobs$"):
        Queue(grid, grid.tasks, quiet=True).run(2, 0)
    killer.join()
    assert not records(tmp_path)
    while any(alive(worker.pid) for worker in found):
        time.sleep(0.05)


@slow
def test_a_killed_experiment_goes_on_where_it_was(tmp_path, capsys):
    write_experiment(tmp_path, FEW, jobs=2)
    with start(tmp_path, "--quiet") as process:
        while len(records(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = records(tmp_path)
    assert 2 <= len(kept) < 6
    assert all(record["status"] == "completed" for record in kept.values())
    run.main([str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), "--quiet"])
    assert "all 6 runs of small are finished" in capsys.readouterr().out
    after = records(tmp_path)
    assert len(after) == 6
    assert {path: after[path] for path in kept} == kept, "a finished run is not done again"
    assert not list(tmp_path.rglob("*.lock*"))


@slow
def test_two_starts_share_a_folder_and_no_run_is_done_twice(tmp_path):
    write_experiment(tmp_path, UNTUNED)
    with start(tmp_path, "--yes") as one, start(tmp_path, "--yes") as other:
        found = [process.communicate() for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], found
    lines = [line for _, errors in found for line in errors.splitlines() if "validation" in line]
    labels = [line.split(" ", 1)[1].split(":")[0] for line in lines]
    assert len(labels) == len(set(labels)) == 10


def test_all_runs_are_checked_before_the_first_one_starts(tmp_path):
    grid = small(tmp_path, UNTUNED, group_sizes=[3, 99])
    with pytest.raises(UserError, match="group size for 9 units is 99"):
        Queue(grid, grid.tasks).run(1, 0)
    assert not grid.folder.exists()
    grid.folder.touch()
    with pytest.raises(UserError, match="can't be made"):
        Queue(grid, grid.choose(None, 3)).run(1, 0)


def test_a_full_disk_loses_no_result(tmp_path, monkeypatch):
    grid, second, sync = small(tmp_path, UNTUNED), tmp_path / "second", os.fsync

    def full(handle):
        if f"{grid.folder}/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    second.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(second))
    monkeypatch.setattr(os, "fsync", full)
    message = r"records\.jsonl can't be written \(No space .*; until then the record is .*/second/"
    with pytest.raises(UserError, match=message):
        work(Queue(grid, grid.tasks[:1]), None)
    (kept,) = second.rglob("*.json")
    assert read_record(kept)["config"] == grid.tasks[0].config.to_dict()
    assert not [path for path in grid.folder.rglob("*") if path.is_file()]


def test_durations_and_speeds():
    assert [in_words(s) for s in (20, 600, 7260, 360_000)] == ["less than a minute", "10 min", "2 h 1 min", "4.2 days"]
    assert Speed(0.5, 2.0, steps=100, validation=3, test=5).seconds(epochs=2) == 2 * (50 + 6) + 10
