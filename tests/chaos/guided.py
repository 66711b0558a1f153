"""Inputs made by atheris, which keeps those that reach new code, for five readers."""

import inspect
import io
import json
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.accuracy.schema import read_experiment
from layerpipe2.errors import UserError
from layerpipe2.lab.data.loading import _load
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.records import fingerprint, read_record
from layerpipe2.lab.runs.validation import checked
from tests.chaos import inputs, records
from tests.chaos.attack import Act, Failed, Scene
from tests.chaos.processes import ended, fork
from tests.data_files import make_arrays, spec_of
from tests.made_records import record

INPUTS = 2000
"""Inputs of a case."""
_MODULES = ("reader", "scanner", "parser", "composer", "resolver", "constructor")
_INSTRUMENTED = [f"yaml.{name}" for name in _MODULES] + ["experiments.accuracy.schema"]
_INSTRUMENTED += [f"layerpipe2.lab.runs.{name}" for name in ("validation", "records")]
_INSTRUMENTED += ["layerpipe2.errors", "json.decoder", "ast"]
_INSTRUMENTED += [f"layerpipe2.lab.data.{name}" for name in ("loading", "readers", "verify")]
_INSTRUMENTED.append(np.lib.format.read_array.__module__)
_SPEC = spec_of("fashion-mnist", make_arrays())


_Reader = Callable[[Path, bytes], object]


def _experiment(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    read_experiment(str(path))


def _record(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    read_record(path)


def _sealed_record(path: Path, content: bytes) -> None:
    """Its checksum is made right, if it is a record at all: only its schema can refuse it."""
    try:
        found = json.loads(content)
        found["checksum"] = fingerprint({name: value for name, value in found.items() if name != "checksum"})
        content = json.dumps(found).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    _record(path, content)


def _settings(path: Path, content: bytes) -> None:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return
    checked(RunConfig, values, "case")


def _array(path: Path, content: bytes) -> None:
    """A data set's first array, in an archive with right checksums."""
    arrays = make_arrays()
    with zipfile.ZipFile(path.with_name("fashion-mnist.npz"), "w") as archive:
        archive.writestr("x_train.npy", content)
        for name in arrays._fields[1:]:
            archive.writestr(f"{name}.npy", _npy(getattr(arrays, name)))
    _load(_SPEC, path.parent, False, lambda line: None)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _settings_case(random: Random) -> bytes:
    values = RunConfig().to_dict()
    records._change(random, values)
    return json.dumps(values).encode()


_READERS: Sequence[tuple[_Reader, Callable[[Random], bytes]]] = (
    (_experiment, inputs.yaml_case),
    (_record, lambda random: records.record_case(random, record())),
    (_sealed_record, lambda random: records.forged_case(random, record())),
    (_settings, _settings_case),
    (_array, lambda random: inputs._flipped(random, _npy(make_arrays().x_train))),
)
"""What reads a file of that content, and what makes good and bad contents to start from."""


def guided(scene: Scene) -> Act:
    """One of the readers."""
    read, make = scene.random.choice(_READERS)
    corpus, path = scene.out / "corpus", scene.out / "file"
    corpus.mkdir(parents=True)
    for number in range(20):
        (corpus / str(number)).write_bytes(make(scene.random))
    options = [f"-runs={INPUTS}", f"-seed={scene.random.randrange(1, 2**31)}", "-max_len=5000", "-timeout=30"]
    options += ["-rss_limit_mb=2048", f"-artifact_prefix={scene.out}/", str(corpus)]

    def act() -> str:
        log, crash = scene.out / "log", scene.out / "crash"
        if ended(fork(lambda: _fuzz(read, path, crash, options), log)) or crash.exists():
            raise Failed("traceback", crash.read_text() if crash.exists() else log.read_text()[-2000:])
        return "refused"

    return act


def _fuzz(read: _Reader, path: Path, crash: Path, options: list[str]) -> None:
    import atheris  # an extra that is installed where it can be

    def try_one(content: bytes) -> None:
        said = ""
        try:
            read(path, content)
        except UserError as error:
            said = str(error) if len(str(error).splitlines()) != 1 else ""
        except Exception:
            said = traceback.format_exc()
        if said:
            crash.write_text(f"{content!r}\n{said}")
            raise Failed("traceback", said)

    for function in _functions():
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *options], try_one)
    atheris.Fuzz()


def _functions() -> Iterator[Any]:
    for name in _INSTRUMENTED:
        module = import_module(name)
        for owner in [module, *(value for value in vars(module).values() if inspect.isclass(value))]:
            for value in vars(owner).values():
                if inspect.isfunction(value) and value.__module__ == name:
                    yield value
