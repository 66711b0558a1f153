"""Random bad inputs: files of experiments, settings, calls, command lines, files of data.

A maker takes a ``random.Random`` and returns a case; the same generator gives the same case. :mod:`tests.chaos.fuzzed`
says what each must keep to.
"""

import argparse
import math
import os
import random
import shutil
import string
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from experiments.accuracy.schema import Experiment
from layerpipe2 import Delays, make_strategy, partition
from layerpipe2.cli import make_parser
from layerpipe2.lab import networks
from layerpipe2.lab.data.specs import DatasetSpec
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import checked
from layerpipe2.planning.schedules import build_schedule
from layerpipe2.stages import partition_at
from tests.data_files import make_arrays, spec_of, write_cifar, write_idx, write_npz, write_tree
from tests.small_experiments import TUNED, UNTUNED

GOOD_NAMES = (
    *("mlp", "vgg", "gpt", "digits", "cifar10", "python-docs", "stash", "ema-0.9", "pair", "sgd", "adamw", "auto"),
)
BAD_TEXTS = (
    *("", " ", "mlp ", "MLP", "-", "--", "-1", "0", "1e1", "1_0", "0x1", "\u0663", "\u00b2", "nan", "inf", "1e400"),
    *("9" * 400, "9" * 5000, "x" * 300, "x" * 100_000, "a\nb", "\x1b[2J", "\u202e", "\ud800", "\udcff", "{", "{0}"),
    *("%s", "../..", "/", ".", "/dev/null", "/dev/zero", "~nobody-here", "a/b", "true", "null", "ema-", "ema-0.9 "),
    *("ema-2", "ema-\u0660.\u0669", "ema-1e-400", "pair-nan", "stash-raw-raw", "ema-0.9-raw-warm", "async/stash"),
)
BAD_NUMBERS = (0, -1, 10**5, 2**31, 2**32, 2**63, 10**20, 10**400, 10**5000, -(10**400), 1e-320, 1e308, -0.0, 0.5)
ODD_NUMBERS = (math.nan, math.inf, -math.inf, True, None)


def bad_text(rng: random.Random) -> str:
    """A text that is rarely what is asked for."""
    made = "".join(rng.choices(string.printable + "\u00e9\u0663\u2028", k=rng.randrange(12)))
    return rng.choice([*BAD_TEXTS, *GOOD_NAMES, made])


def bad_value(rng: random.Random, depth: int = 2) -> Any:
    """A value of any type."""
    loop: list[Any] = []
    loop.append(loop)
    odd = (b"x", Decimal("1.5"), 1j, object(), np.int64(3), np.zeros((2, 2)), torch.ones(2), {1, 2}, len, ..., loop)
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(BAD_NUMBERS + ODD_NUMBERS)
    if kind == 2:
        return bad_text(rng)
    if kind == 3:
        return rng.randrange(1, 4)
    if kind == 4:
        return rng.choice(odd)
    values = [bad_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return values if kind < 7 else {rng.choice(["a", 5, None, ("b",)]): value for value in values}


# Files of experiments.


def yaml_case(rng: random.Random) -> bytes:
    """The content of an experiment's file: a good one, harmed here and there."""
    content = yaml.safe_load(yaml.safe_dump(rng.choice([TUNED, UNTUNED])))
    for _ in range(rng.choice([0, 1, 1, 2])):
        _harm(rng, content)
    text = yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True)
    for _ in range(rng.choice([0, 0, 1, 2])):
        text = rng.choice(_TEXT_HARMS)(rng, text)
    encoded = text.encode(rng.choice(["utf-8"] * 8 + ["utf-16", "utf-16-le", "utf-8-sig", "latin-1"]), "replace")
    return _flipped(rng, encoded) if rng.random() < 0.1 else encoded


class _Plain(yaml.SafeDumper):
    """Without anchors of its own."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _written(value: Any, depth: int = 3) -> Any:
    """What can be written of a value."""
    if isinstance(value, list | dict) and depth:
        items = [_written(item, depth - 1) for item in (value if isinstance(value, list) else value.values())]
        return items if isinstance(value, list) else dict(zip(map(str, value), items, strict=True))
    plain = isinstance(value, str | float) or value is None or (isinstance(value, int) and abs(value) < 10**4000)
    return value if plain else type(value).__name__


def _harm(rng: random.Random, content: dict[Any, Any]) -> None:
    tables = [content, *(value for value in content.values() if isinstance(value, dict))]
    table = rng.choice(tables)
    known = [*Experiment.model_fields, *RunConfig.model_fields, "rates", "like"] if table is content else [*table]
    key = rng.choice([*known, "nonsense", "5"])
    if rng.random() < 0.2:
        table.pop(key, None)
    elif key in ("cell", "records", "tables", "name") or rng.random() < 0.2:
        parts = ("{network}", "{strategy}", "{name}", "{stages!r}", "{group:>99}", "{", "}", "..", "/", "a", "\0", "{}")
        table[key] = "".join(rng.choices(parts, k=rng.randrange(6)))
    else:
        table[key] = _written(bad_value(rng))


def _between_lines(rng: random.Random, text: str, new: str) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines) + 1)
    return "".join([*lines[:at], new, *lines[at:]])


def _bomb(rng: random.Random, text: str) -> str:
    lines = ["a0: &a0 [x, x]\n"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)]
    return "".join(lines) + text


def _twice(rng: random.Random, text: str) -> str:
    return _between_lines(rng, text, rng.choice(text.splitlines(keepends=True)))


_TEXT_HARMS: tuple[Callable[[random.Random, str], str], ...] = (
    _bomb,
    _twice,
    lambda rng, text: _between_lines(rng, text, f"{bad_text(rng)[:500]}: {bad_text(rng)[:500]}\n"),
    lambda rng, text: text + f"seeds: [{'[' * rng.randrange(2000)}\n",
    lambda rng, text: (
        text + rng.choice(["5: 6\n", "? [1]\n: 2\n", "<<: {jobs: 3}\n", "jobs: !!python/name:os.system\n"])
    ),
    lambda rng, text: text.replace(rng.choice(text.split() or [""]), rng.choice(BAD_TEXTS)[:9000], 1),
    lambda rng, text: text[: rng.randrange(len(text) + 1)],
    lambda rng, text: text + "# " + "x" * rng.choice([10, 2**16]),
    lambda rng, text: (
        text + f"jobs: {rng.choice(['0b_', '010', '1:30', '2026-99-99', '.nan', '1e5', '=', '~', '*x'])}\n"
    ),
)


# Settings and calls in Python.


def config_case(rng: random.Random) -> dict[Any, Any]:
    """A mapping that should be the settings of a run."""
    fields = [*RunConfig.model_fields, "nonsense", 5, None]
    return {
        rng.choice(fields): bad_value(rng) if rng.random() < 0.8 else bad_text(rng) for _ in range(rng.randrange(4))
    }


def api_case(rng: random.Random) -> Callable[[], object]:
    """A call of the public functions with a wrong argument."""
    a, b = (bad_value(rng) if rng.random() < 0.7 else bad_text(rng) for _ in range(2))
    units = [nn.ReLU(), nn.ReLU()]
    meta = {"input_shape": (1, 8, 8), "num_classes": 10} | {rng.choice(["input_shape", "num_classes", "width"]): a}
    return rng.choice(
        [
            lambda: make_strategy(a),
            lambda: Delays.by_law(rng.choice([a, "layerpipe2", "pipedream"]), b),
            lambda: Delays.custom(a),
            lambda: Delays(a, b),
            lambda: Delays.layerpipe2(2).grid(a),
            lambda: partition(units, a),
            lambda: partition(a, 1),
            lambda: partition_at(units, a),
            lambda: build_schedule(rng.choice([a, "gpipe", "layerpipe", "zb-h1"]), 2, 2, b),
            lambda: _on_meta(rng.choice([a, "mlp", "vgg", "vit", "gpt"]), meta),
            lambda: checked(RunConfig, a),
        ]
    )


def _on_meta(name: Any, sizes: dict[str, Any]) -> None:
    with torch.device("meta"):
        networks.build(name, **sizes)


# Command lines.


def command_case(rng: random.Random) -> list[str]:
    """Arguments of ``layerpipe2`` that take seconds at most: what is within bounds is small, nothing is launched."""
    parsers = next(a.choices for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    command = rng.choice(sorted(parsers.keys() - {"advise", "check"}))  # they train, for minutes with some settings
    arguments = [command] if rng.random() < 0.97 else [_argument(rng)]
    parsers[command].fill()
    options = [a for a in parsers[command]._actions if a.option_strings and a.dest not in ("help", "download")]
    for option in rng.sample(options, rng.randrange(min(5, len(options)))):
        arguments.append(rng.choice(option.option_strings))
        if option.nargs != 0:
            arguments += [_option_value(rng, option.dest) for _ in range(rng.choice([1] * 9 + [0]))]
    if rng.random() < 0.1:
        arguments.append(rng.choice(["--bogus", "--wid", "gpipe", "layerpipe2", "--help", "--", _argument(rng)]))
    small = {
        "train": {"--max-steps": "1", "--epochs": "1", "--width": "4"},
        "balance": {"--repeats": "1", "--width": "4"},
    }
    for option, text in small.get(command, {}).items():
        arguments += [] if option in arguments else [option, text]
    if command == "launch":
        arguments += rng.choice([[], ["--"], ["--", "missing.py"], ["missing.py"], ["--", "."]])
    return arguments


def _argument(rng: random.Random) -> str:
    text = bad_text(rng)
    return "x" if "\0" in text else text


def _option_value(rng: random.Random, name: str) -> str:
    if rng.random() < 0.4:
        return rng.choice(_GOOD_VALUES.get(name, ("1", "2", "3")))
    if rng.random() < 0.5:
        return _argument(rng)
    if rng.random() < 0.2:
        return ",".join(str(rng.choice(BAD_NUMBERS[:7])) for _ in range(rng.choice([1, 2, 9, 1000])))
    number = rng.choice([n for n in BAD_NUMBERS if n != 10**5000 and (name not in _SLOW or n != 10**5)])
    return str(number)


_SLOW = ("epochs", "max_steps", "repeats")
_GOOD_VALUES = {
    "dataset": ("digits", "python-docs", "cifar10"),
    "network": tuple(networks.NETWORKS),
    "convention": ("layerpipe2", "pipedream", "none", "custom"),
    "delays": ("2,0", "16,14,12,10,8,6,4,2,0", "0"),
    "strategy": ("stash", "latest", "ema-0.5", "pair", "ema-span-raw"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "cosine"),
    "precision": ("float32", "float64"),
    "device": ("cpu",),
    "width": ("4", "8"),
    "batch_size": ("16", "64"),
    "threads": ("1",),
    "momentum": ("0", "0.9"),
    "validation_fraction": ("0.2",),
    "out": ("out.txt", "new/out.txt", "."),
    "checkpoint_dir": ("saved",),
    "export": ("dot", "json"),
    "step": ("0", "4"),
    "name": ("gpipe",),
    "master": ("10.0.0.1:1", "a:b", ":1", "[::1]:5"),
}


# Files of data.


def data_case(rng: random.Random, folder: Path) -> DatasetSpec:
    """A small data set in ``folder`` in one of the formats, harmed; returns what it should be."""
    arrays, place = make_arrays(), folder / "fashion-mnist"
    spec = spec_of("fashion-mnist", arrays)
    kind = rng.choice(["idx", "gz", "tree", "npz", "cifar"])
    if kind in ("idx", "gz"):
        write_idx(place, arrays, compress=kind == "gz")
    elif kind == "tree":
        write_tree(place, arrays)
    elif kind == "npz":
        write_npz(folder / "fashion-mnist.npz", arrays)
    else:
        arrays = make_arrays((3, 32, 32))
        spec = spec_of("cifar100", arrays, torchvision=write_cifar(folder, arrays))
    for _ in range(rng.choice([0, 1, 1, 2])):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size < 10**9)
        if files:
            rng.choice(_FILE_HARMS)(rng, rng.choice(files))
    if kind == "npz" and rng.random() < 0.5:
        _harm_header(rng, folder / "fashion-mnist.npz")
    return spec


def _flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 20]) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _replaced(make: Callable[[Path], object]) -> Callable[[random.Random, Path], None]:
    def harm(rng: random.Random, path: Path) -> None:
        path.unlink()
        make(path)

    return harm


_FILE_HARMS: tuple[Callable[[random.Random, Path], object], ...] = (
    lambda rng, path: path.write_bytes(_flipped(rng, path.read_bytes())),
    lambda rng, path: path.write_bytes(_flipped(rng, path.read_bytes()[:64]) + path.read_bytes()[64:]),
    lambda rng, path: path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)]),
    lambda rng, path: path.write_bytes(path.read_bytes() + bytes(rng.randrange(100_000))),
    lambda rng, path: path.write_bytes(rng.randbytes(rng.randrange(300))),
    lambda rng, path: os.truncate(path, 10**12),
    lambda rng, path: shutil.copy(path, path.with_name(f"copy {path.name}")),
    _replaced(os.mkfifo),
    _replaced(Path.mkdir),
    _replaced(lambda path: path.symlink_to("/dev/zero")),
    _replaced(lambda path: path.symlink_to(path)),
    _replaced(lambda path: None),
)


def _harm_header(rng: random.Random, path: Path) -> None:
    """Rewrite the archive with one array's header harmed, its checksum right."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 10**9 or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # harmed already
        return
    name = rng.choice(sorted(members))
    head, body = members[name][:128], members[name][128:]
    shape = rng.choice([(3 * 10**12,), (10**30, 0), (-1,), (), (2**63,), (0,) * 40, (18, 1, 8, 8)])
    descr = rng.choice(["|u1", "|O", "<f8", "|V99999999", "|S0", "<M8[ns]", "<i8", "nonsense", "<U9"])
    said = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = rng.choice([_flipped(rng, head), head[:10] + said.ljust(117)[:117] + b"\n", head[:10] + b"(" * 118])
    members[name] = head + body
    with zipfile.ZipFile(
        path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    ) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
