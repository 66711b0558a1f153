"""Inputs made by atheris, which keeps those that reach new code: for the readers of experiments and of records."""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.schema import read_experiment
from layerpipe2.errors import UserError
from layerpipe2.runs.records import read_record
from tests.chaos import inputs, records
from tests.chaos.attack import Act, Failed, Scene
from tests.chaos.processes import ended, fork
from tests.made_records import record

INPUTS = 2000
"""Inputs of a case."""
_MODULES = ("reader", "scanner", "parser", "composer", "resolver", "constructor")
_INSTRUMENTED = [f"yaml.{name}" for name in _MODULES] + ["experiments.schema", "layerpipe2.runs.validation"]
_INSTRUMENTED += ["layerpipe2.runs.records", "layerpipe2.errors", "json.decoder"]


def guided(scene: Scene) -> Act:
    """One reader, with good and bad files to start from."""
    read, make = scene.random.choice(
        [
            (lambda path: read_experiment(str(path)), inputs.yaml_case),
            (read_record, lambda random: records.record_case(random, record())),
        ]
    )
    corpus, path = scene.out / "corpus", scene.out / "file.yaml"
    corpus.mkdir(parents=True)
    for number in range(20):
        (corpus / str(number)).write_bytes(make(scene.random))
    options = [f"-runs={INPUTS}", f"-seed={scene.random.randrange(1, 2**31)}", "-max_len=20000", "-timeout=30"]
    options += ["-rss_limit_mb=2048", f"-artifact_prefix={scene.out}/", str(corpus)]

    def act() -> str:
        log, crash = scene.out / "log", scene.out / "crash"
        if ended(fork(lambda: _fuzz(read, path, crash, options), log)) or crash.exists():
            raise Failed("traceback", crash.read_text() if crash.exists() else log.read_text()[-2000:])
        return "refused"

    return act


def _fuzz(read: Callable[[Path], object], path: Path, crash: Path, options: list[str]) -> None:
    import atheris  # an extra that is installed where it can be

    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        said = ""
        try:
            read(path)
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
