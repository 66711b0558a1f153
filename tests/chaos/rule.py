"""The rule for bad input: what is asked for happens, or one line says why not, and nothing is written elsewhere."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from experiments.grid import Grid
from experiments.schema import read_experiment
from layerpipe2.cli import main
from layerpipe2.errors import UserError
from layerpipe2.lab.data.loading import _load
from layerpipe2.lab.data.specs import DatasetSpec
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.plan import plan_from
from layerpipe2.lab.runs.validation import checked
from tests.data_files import make_arrays

LINE = 1300
"""Most characters of an answer."""


def answer(call: Callable[[], object]) -> str | None:
    """None if the call returns, or the one line with which it refuses; every other exception passes."""
    try:
        call()
    except UserError as error:
        line = str(error)
        assert line.strip()
        assert len(line.splitlines()) == 1, line
        return line
    return None


def command_answer(arguments: list[str], command: Callable[[list[str]], int] = main) -> str | None:
    """The same of a command with its exit codes, 0 and 2."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            code = command(arguments)
        except SystemExit as end:  # --help
            code = int(end.code or 0)
    assert code in (0, 2), (arguments, code)
    if code == 0:
        return None
    (line,) = errors.getvalue().splitlines()[-1:]
    assert errors.getvalue().count("error: ") >= 1
    assert line.isprintable(), line
    assert len(line) < LINE, line
    return line


@contextmanager
def unchanged(folder: Path, but: Path) -> Iterator[None]:
    """Nothing is made, changed or removed below ``folder``, save below ``but``."""

    def state() -> dict[Path, int]:
        found = {}
        for place, names, files in os.walk(folder):
            names[:] = [name for name in names if Path(place, name) != but]
            found |= {Path(place, name): Path(place, name).lstat().st_mtime_ns for name in files}
        return found

    before = state()
    yield
    assert state() == before


def yaml_answer(content: bytes, folder: Path) -> str | None:
    """Read the file, list its runs; all its records lie in the folder that is asked for."""
    path = folder / "small.yaml"
    path.write_bytes(content)

    def read() -> None:
        experiment = read_experiment(str(path))
        own = Grid.of(experiment)
        assert Path("x", own.folder).resolve().is_relative_to(Path("x").resolve()), own.folder
        assert Path("x", experiment.tables.format(name=experiment.name)).resolve().is_relative_to(Path("x").resolve())
        grid = Grid.of(experiment, folder / "out")
        for task in grid.tasks:
            assert (grid.folder / task.path).resolve().is_relative_to(grid.folder.resolve()), task.path
        grid.left(grid.tasks)

    return answer(read)


def config_answer(values: dict[Any, Any]) -> str | None:
    """Check the settings, cut the network, and read the record's form of the settings back."""

    def read() -> None:
        config = checked(RunConfig, values, "case")
        assert checked(RunConfig, config.to_dict()) == config
        plan_from(config)

    return answer(read)


def data_answer(spec: DatasetSpec, folder: Path) -> str | None:
    """Load it: the data that it was, or a refusal."""

    def read() -> None:
        data = _load(spec, folder, False, lambda line: None)
        arrays = make_arrays(spec.input_shape)
        assert data.x_train.long().sum() == int(arrays.x_train.sum())
        assert sorted(data.y_test.tolist()) == sorted(arrays.y_test.tolist())

    return answer(read)
