"""Many runs in worker processes: the same records, one-line failures, no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments import train
from experiments.study.pool import train_all
from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.train import train_run

ROOT = Path(__file__).parents[2]
SMALL = {"width": 8, "group_size": 3, "epochs": 1, "batch_size": 128}


def _study(folder: Path, **settings) -> Path:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["study"] |= {"strategies": ["stash", "latest"], "seeds": [0, 1]}
    content["profiles"]["digits"] |= {"batch_size": 128}
    content["nets"]["mlp"] |= {"width": 8, "epochs": 1} | settings
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_training_stage_writes_what_a_run_in_this_process_gives(tmp_path, capsys):
    configs = [RunConfig(**SMALL, strategy=name, seed=4) for name in ("stash", "latest", "ema-window")]
    train_all(configs, tmp_path, jobs=2, label="item")
    assert sorted(os.listdir(tmp_path)) == ["ema-window-s4.json", "latest-s4.json", "stash-s4.json"]
    for config in configs:
        written = json.loads((tmp_path / f"{config.strategy}-s4.json").read_text())
        expected = train_run(config, progress=False)
        assert {**written, "provenance": None} == {**expected, "provenance": None}
    assert "item: 3/3 runs" in capsys.readouterr().err


def test_all_runs_are_checked_before_the_first_one_starts(tmp_path):
    configs = [RunConfig(**SMALL), RunConfig(**SMALL | {"group_size": 99})]
    with pytest.raises(UserError, match="group size for 9 units is 99"):
        train_all(configs, tmp_path, jobs=1, label="item")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be made"):
        train_all([RunConfig(**SMALL)], tmp_path / "file" / "runs", jobs=1, label="item")


def _kill_self(config):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.study.pool._train", _kill_self)
    with pytest.raises(UserError, match="a training process was killed"):
        train_all([RunConfig(**SMALL)], tmp_path, jobs=1, label="item")


def test_the_script_trains_one_item_of_the_study(tmp_path):
    train.main(["mlp", "sequential", "--params", str(_study(tmp_path)), "--out", str(tmp_path / "runs")])
    found = [path.name for path in sorted((tmp_path / "runs" / "mlp-sequential").iterdir())]
    assert found == ["sequential-s0.json", "sequential-s1.json"]


def _start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), *arguments]
    # A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, previous)


def _descendants(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for child in map(int, children) for pid in (child, *_descendants(child))]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(("stop", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, "")])
def test_stopping_the_script_ends_its_workers(tmp_path, stop, code, says):
    _study(tmp_path, epochs=100_000)
    with _start(tmp_path, "mlp", "1") as process:
        pids: list[int] = []
        while sum(_cpu_seconds(pid) > 1.5 for pid in pids) < 3:  # the server imports, both workers train
            assert process.poll() is None
            time.sleep(0.05)
            pids = _descendants(process.pid)
        process.send_signal(stop) if stop == signal.SIGKILL else os.killpg(process.pid, stop)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert says in errors
    assert "Traceback" not in errors
    while not all(map(_gone, pids)):
        time.sleep(0.05)


def test_a_mistake_in_the_file_is_one_line_and_code_2(tmp_path):
    _study(tmp_path, lr="nan")
    with _start(tmp_path, "mlp", "1") as process:
        errors = process.communicate()[1]
    assert process.returncode == 2
    expected = "experiments/train.py: error: params.yaml: nets.mlp.lr is 'nan'; give a finite number > 0\n"
    assert errors == expected
    assert os.listdir(tmp_path) == ["params.yaml"]
