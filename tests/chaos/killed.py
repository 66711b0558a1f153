"""Kills at random moments: what is started again ends as if nothing had happened, and nothing is left behind."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from experiments import track
from layerpipe2.cli import main
from layerpipe2.cli.console import run_command
from layerpipe2.lab.runs import cell_file
from tests.chaos.attack import Act, Failed, Scene
from tests.chaos.processes import check_none_left, descendants, ended, fork, kill
from tests.made_records import record
from tests.pipeline.processes import _set_environment
from tests.small_experiments import ROOT, UNTUNED, write_experiment

PATIENCE_S = 60
Start = Callable[[Sequence[str], Path], list[int]]
"""Starts a command, whose processes write what they say into files of a folder; returns the processes."""


def one_process(arguments: Sequence[str], logs: Path) -> list[int]:
    """A command of the library in a forked process."""
    return [fork(lambda: main(arguments), logs / "0")]


def two_ranks(arguments: Sequence[str], logs: Path) -> list[int]:
    """A command of the library as the two ranks of a pipeline, forked."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def rank(number: int) -> int:
        _set_environment(number, 2, port)
        return main(arguments)

    return [fork(partial(rank, number), logs / str(number)) for number in range(2)]


def launched(arguments: Sequence[str], logs: Path) -> list[int]:
    """A command of the library by ``layerpipe2 launch``, as a user starts it."""
    return python(["-m", "layerpipe2", "launch", "--processes", "2", "--", "-m", "layerpipe2", *arguments], logs)


def python(arguments: Sequence[str], logs: Path) -> list[int]:
    """Python, started anew."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    with (logs / "0").open("w") as log:
        command = [sys.executable, *arguments]
        return [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment).pid]


def tracked(arguments: Sequence[str], logs: Path) -> list[int]:
    """``python -m experiments.track`` in a forked process."""
    return [fork(lambda: run_command("experiments.track", track.main, arguments), logs / "0")]


def training(random: Random, *, several: bool) -> list[str]:
    """The command of a small training, with delays and a weight history."""
    pick = random.choice
    options = {
        "network": "mlp",
        "width": pick([8, 12]),
        "batch-size": pick([128, 256]),
        "epochs": random.randint(2, 6),
        "group-size": pick([1, 2, 3, 4] if several else [1, 2, 3, 9]),
        "strategy": pick(["stash", "latest", "ema-window", "ema-span-raw", "pair", "update-window"]),
        "optimizer": pick(["sgd", "adamw"]),
        "convention": pick(["layerpipe2", "pipedream"]),
        "seed": random.randrange(1000),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["train", "--quiet", *words, *pick([[], ["--drain"]])]


def killed_training(scene: Scene, start: Start, several: bool = True, kills: Sequence[int] = (1, 1, 2, 3)) -> Act:
    """A training is killed once or more, and resumed: its record is that of one that was left alone."""
    arguments = training(scene.random, several=several)
    moments = [scene.random.random() for _ in range(scene.random.choice(kills))]

    def act() -> str:
        logs, saved = scene.out / "logs", scene.out / "checkpoints"
        logs.mkdir(parents=True)
        seconds = finish(start([*arguments, "--out", str(scene.out / "whole.json")], logs), logs)
        goal = [*arguments, "--checkpoint-dir", str(saved), "--out", str(scene.out / "record.json")]
        for moment in moments:
            kill_one(start(resumed(goal, saved), logs), moment * seconds, scene.random)
        finish(start(resumed(goal, saved), logs), logs)
        same(numbers(scene.out / "record.json"), numbers(scene.out / "whole.json"))
        if left := {path.name for path in saved.iterdir()} - {"last.ckpt", "previous.ckpt"}:
            raise Failed("left", f"beside the checkpoint: {left}")
        return "equal"

    return act


def resumed(arguments: list[str], saved: Path) -> list[str]:
    """What a user does: go on, if there is something to go on with."""
    there = any((saved / name).exists() for name in ("last.ckpt", "previous.ckpt", ".last.ckpt.old"))
    return [*arguments, "--resume"] if there else arguments


def kill_one(started: list[int], after_s: float, random: Random) -> None:
    """Kill one of the processes that were started, or one of theirs: the others must end by themselves.

    Ranks that no launcher has started have nobody to end them before they have met: they are killed, one by one.
    """
    time.sleep(after_s)
    kill([random.choice([*started, *(pid for one in started for pid in descendants(one))])])
    if len(started) > 1:
        time.sleep(random.choice([0, 0.01, 0.1]))
        kill(started)
    deadline = time.monotonic() + PATIENCE_S
    while started := [pid for pid in started if not os.waitpid(pid, os.WNOHANG)[0]]:
        if time.monotonic() > deadline:
            raise Failed("hang", f"{PATIENCE_S} s after a kill processes still wait for the killed one")
        time.sleep(0.01)
    check_none_left()


def finish(started: list[int], logs: Path) -> float:
    """Wait for a command that must complete; the seconds that took."""
    begun = time.monotonic()
    if any(codes := [ended(pid) for pid in started]):
        said = [path.read_text()[-2000:] for path in sorted(logs.iterdir())]
        raise Failed("different", f"started again, it did not complete: exit codes {codes}: {said}")
    return time.monotonic() - begun


def numbers(path: Path) -> dict[str, Any]:
    """A record without what differs between two equal runs: times and memory."""
    return results_of(json.loads(path.read_text()))


def results_of(record: dict[str, Any]) -> dict[str, Any]:
    """The same of a record that was read."""
    return {name: value for name, value in record.items() if name not in ("provenance", "processes", "checksum")}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises Failed if two results differ."""
    wrong = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    if wrong:
        raise Failed("different", "; ".join(f"{k}: {found.get(k)} instead of {expected.get(k)}" for k in wrong))


def experiment_prepared(folder: Path) -> None:
    """An experiment of three runs, and its records."""
    write_experiment(folder, UNTUNED, group_sizes=[3], seeds=[0])
    seconds = finish(experiment(folder, folder), folder)
    (folder / "seconds").write_text(str(seconds))


def experiment(prepared: Path, folder: Path) -> list[int]:
    """``python -m experiments.run`` with its records in ``folder/runs``."""
    arguments = ["-m", "experiments.run", str(prepared / "small.yaml"), "--out", str(folder / "runs"), "--quiet"]
    return python(arguments, folder)


def killed_experiment(scene: Scene) -> Act:
    """An experiment, one of its workers or their server is killed."""
    moment = scene.random.random()

    def records(folder: Path) -> dict[str, Any]:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        made = cell_file.read_all(folder)
        found = {str(path.relative_to(folder)): results_of(record) for path, record in made.items()}
        return found | {str(path): "left over" for path in paths if path.name != cell_file.FILE}

    def act() -> str:
        scene.out.mkdir()
        seconds = float((scene.prepared / "seconds").read_text())
        kill_one(experiment(scene.prepared, scene.out), moment * seconds, scene.random)
        finish(experiment(scene.prepared, scene.out), scene.out)
        same(records(scene.out / "runs"), records(scene.prepared / "runs"))
        return "equal"

    return act


def killed_tracking(scene: Scene) -> Act:
    """The copy of records to MLflow is killed, mostly while it makes the database."""
    number, moment = scene.random.randint(1, 4), scene.random.random()
    for seed in range(number):
        cell_file.write(scene.folder / "records" / f"{seed}.json", record("stash", seed))

    def act() -> str:
        scene.out.mkdir()
        database, logs = scene.out / "mlflow.db", scene.out / "logs"
        logs.mkdir()
        arguments = ["--runs", "records", "--database", str(database), "--artifacts", str(scene.out / "artifacts")]
        kill_one(tracked(arguments, logs), moment * 2.5, scene.random)
        finish(tracked(arguments, logs), logs)
        with sqlite3.connect(database) as rows:
            kind = "JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'kind' AND tags.value = 'seed'"
            query = f"SELECT count(*) FROM runs {kind} WHERE status = 'FINISHED' AND lifecycle_stage = 'active'"
            same({"finished copies": rows.execute(query).fetchone()[0]}, {"finished copies": number})
        return "equal"

    return act
