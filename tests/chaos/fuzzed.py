"""Fuzzed inputs as cases: the makers of :mod:`tests.chaos.inputs` and :mod:`tests.chaos.records`, each in a scene."""

import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

from experiments import collect
from experiments.accuracy.grid import Grid
from experiments.accuracy.schema import read_experiment
from layerpipe2.cli import main
from layerpipe2.cli.console import run_command
from layerpipe2.lab.data.loading import _load
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import plan_from
from layerpipe2.lab.runs.records import read_record
from layerpipe2.lab.runs.validation import checked
from tests.chaos import inputs, records
from tests.chaos.attack import Act, Failed, Scene, call
from tests.data_files import make_arrays
from tests.made_records import record
from tests.small_experiments import UNTUNED, small

LINE = 1300
"""Most characters of an answer."""


def _completes(work: Callable[[], object]) -> Act:
    def act() -> str:
        work()
        return "equal"

    return act


def experiment(scene: Scene) -> Act:
    """The file of an experiment: all records of its runs lie in the folder that is asked for."""
    scene.out.mkdir()
    path = scene.out / "small.yaml"
    path.write_bytes(inputs.yaml_case(scene.random))

    def read() -> None:
        found = read_experiment(str(path))
        for place in (Grid.of(found).folder, Path(found.tables.format(name=found.name))):
            assert Path("x", place).resolve().is_relative_to(Path("x").resolve()), place
        grid = Grid.of(found, scene.out / "out")
        for task in grid.tasks:
            assert (grid.folder / task.path).resolve().is_relative_to(grid.folder.resolve()), task.path
        grid.left(grid.tasks)

    return _completes(read)


def settings(scene: Scene) -> Act:
    """Settings of a run, in Python: they cut the network, and the record's form of them is read back."""
    values = inputs.config_case(scene.random)

    def read() -> None:
        config = checked(RunConfig, values, "case")
        assert checked(RunConfig, config.to_dict()) == config
        plan_from(config)

    return _completes(read)


def arguments(scene: Scene) -> Act:
    """Arguments of the public functions."""
    asked = inputs.api_case(scene.random)
    return _completes(asked)


def command(scene: Scene) -> Act:
    """A command line. What it is told to write may lie two folders higher, but not at the root of the machine."""
    words = inputs.command_case(scene.random)
    words = ["saved" if word.startswith(("/", "~")) and len(word) < 10 else word for word in words]
    folder = scene.out / "a" / "b"
    folder.mkdir(parents=True)
    os.chdir(folder)
    return lambda: answer(words)


def answer(words: list[str]) -> str:
    """How ``layerpipe2`` ends; a refusal is the last line on the standard error."""
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as end:  # --help
            code = int(end.code or 0)
    assert code in (0, 2), (words, code)
    if code == 0:
        return "equal"
    (line,) = said.getvalue().splitlines()[-1:]
    assert "error: " in said.getvalue()
    assert line.isprintable(), line
    assert len(line) < LINE, line
    return "refused"


def data(scene: Scene) -> Act:
    """Files of a data set."""
    folder = scene.folder / "data"
    folder.mkdir()
    spec = inputs.data_case(scene.random, folder)

    def read() -> None:
        found, arrays = _load(spec, folder, False, lambda line: None), make_arrays(spec.input_shape)
        assert found.x_train.long().sum() == int(arrays.x_train.sum())
        assert sorted(found.y_test.tolist()) == sorted(arrays.y_test.tolist())

    return _completes(read)


def damaged_record(scene: Scene) -> Act:
    """A record whose file was damaged: it is refused, or read as it was."""
    made, path = record(diverged=scene.random.random() < 0.2), scene.folder / "run.json"
    path.write_bytes(records.record_case(scene.random, made))

    def act() -> str:
        if (found := read_record(path)) != made:
            raise Failed("different", f"read {found}")
        return "equal"

    return act


def prepare_records(folder: Path) -> None:
    """A small experiment with made records."""
    grid = small(folder, UNTUNED, group_sizes=[3])
    for task in grid.tasks:
        made = record(task.cell.strategy, task.config.seed) | {"config": task.config.to_dict()}
        cell_file.write(grid.folder / task.path, made)
    if _collected(folder, folder / "tables") != "equal":
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
    return lambda: _collected(scene.folder, scene.out / "tables", scene.out / "records")


def _collected(folder: Path, tables: Path, found: Path | None = None) -> str:
    words = [str(folder / "small.yaml"), "--records", str(found or folder / "out"), "--out", str(tables)]
    return call(partial(run_command, "collect", collect.main), words)
