"""Fuzzed inputs as cases: the makers of :mod:`tests.chaos.inputs` and :mod:`tests.chaos.records`, each in a scene."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments import collect
from layerpipe2.cli.console import run_command
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.records import read_record
from tests.chaos import inputs, records, rule
from tests.chaos.attack import Act, Failed, Scene, call
from tests.made_records import record
from tests.small_experiments import UNTUNED, small


def experiment(scene: Scene) -> Act:
    """The file of an experiment."""
    content = inputs.yaml_case(scene.random)
    scene.out.mkdir()
    return _answered(lambda: rule.yaml_answer(content, scene.out))


def settings(scene: Scene) -> Act:
    """Settings of a run, in Python."""
    values = inputs.config_case(scene.random)
    return _answered(lambda: rule.config_answer(values))


def arguments(scene: Scene) -> Act:
    """Arguments of the public functions."""
    asked = inputs.api_case(scene.random)
    return _answered(lambda: rule.answer(asked))


def command(scene: Scene) -> Act:
    """A command line. What it is told to write may lie two folders higher, but not at the root of the machine."""
    words = inputs.command_case(scene.random)
    words = ["saved" if word.startswith(("/", "~")) and len(word) < 10 else word for word in words]
    folder = scene.out / "a" / "b"
    folder.mkdir(parents=True)
    os.chdir(folder)
    return _answered(lambda: rule.command_answer(words))


def data(scene: Scene) -> Act:
    """Files of a data set."""
    folder = scene.folder / "data"
    folder.mkdir()
    spec = inputs.data_case(scene.random, folder)
    return _answered(lambda: rule.data_answer(spec, folder))


def damaged_record(scene: Scene) -> Act:
    """A record whose file was damaged: it is refused, or read as it was."""
    made, path = record(diverged=scene.random.random() < 0.2), scene.folder / "run.json"
    path.write_bytes(records.record_case(scene.random, made))

    def act() -> str:
        found = records.outcome(lambda: read_record(path))
        if found not in (None, made):
            raise Failed("different", f"read {found}")
        return "refused" if found is None else "equal"

    return act


def prepare_records(folder: Path) -> None:
    """A small experiment with made records."""
    grid = small(folder, UNTUNED, group_sizes=[3])
    for task in grid.tasks:
        made = record(task.cell.strategy, task.config.seed) | {"config": task.config.to_dict()}
        cell_file.write(grid.folder / task.path, made)
    if call(partial(run_command, "collect", collect.main), _collect(folder, folder / "tables")) != "equal":
        raise RuntimeError("undamaged records can't be collected")


def collected(scene: Scene) -> Act:
    """One of an experiment's records is damaged or forged, and all are collected."""
    shutil.copytree(scene.prepared / "out", scene.folder / "out" / "records")
    (scene.folder / "small.yaml").write_bytes((scene.prepared / "small.yaml").read_bytes())
    path = scene.random.choice(sorted((scene.out / "records").rglob(cell_file.FILE)))
    make = scene.random.choice([records.record_case, records.forged_case])
    number = scene.random.randrange(len(lines := path.read_bytes().splitlines()))
    name, whole = json.loads(lines[number]).values()
    made = make(scene.random, {name: value for name, value in whole.items() if name != "checksum"})
    lines[number] = b'{"name":"%s","record":%s}' % (name.encode(), made.replace(b"\n", b""))
    path.write_bytes(b"\n".join(lines))
    words = _collect(scene.folder, scene.out / "tables", scene.out / "records")
    return lambda: call(partial(run_command, "collect", collect.main), words)


def _collect(folder: Path, tables: Path, found: Path | None = None) -> list[str]:
    return [str(folder / "small.yaml"), "--records", str(found or folder / "out"), "--out", str(tables)]


def _answered(ask: Callable[[], Any]) -> Act:
    return lambda: "equal" if ask() is None else "refused"
