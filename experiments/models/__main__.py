"""Networks of other libraries as stages: which are cut as they come, and train in two processes as in the simulation.

Needs the extra ``models``; nothing is downloaded, weights are random. Examples:

  python -m experiments.models
  python -m experiments.models BERT T5
"""

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.models.networks import MODELS, Model
from experiments.models.train import STRATEGIES, Found, trained
from layerpipe2 import UserError, cut
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.lab.runs.records import Row, write_csv, write_text

_CSV, _PAGE = Path("results/models/models.csv"), Path("docs/models.md")
_BEGIN, _END = "<!-- table -->\n", "<!-- end -->\n"
TITLES = {
    "network": "network",
    "call": "stages",
    "at": "the second begins at",
    "seconds": "s to cut",
    **{f"loss {name}": f"loss, {name}" for name in STRATEGIES[:2]},
    "bits": "two processes",
    "stash": "MB, rank 0, stash",
    "average": "MB, rank 0, average",
    "last": "MB, rank 1",
    "refused": "why not",
}
"""Column -> its title on the page."""


def row(name: str, strategies: tuple[str, ...] = STRATEGIES) -> Row:
    """Cut a network, which compares stages and network, and train it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name]
    found: Row = dict.fromkeys(TITLES, "") | {"network": name, "call": _call(model)}
    network, begin = model.make(), time.perf_counter()
    try:
        at = cut(network, model.example(), 2, **model.how).at
        found |= {"at": at[0], "seconds": f"{time.perf_counter() - begin:.1f}"}
        alone, several = trained(name, at, strategies), in_processes(name, at)
    except UserError as error:
        return found | {"refused": str(error)}
    same = all(one["digests"] == several[strategy]["digests"] for strategy, one in alone.items())
    memory = {strategy: [f"{size / 1e6:.1f}" for size in one["memory"]] for strategy, one in several.items()}
    found |= {f"loss {strategy}": f"{alone[strategy]['loss']:.4f}" for strategy in STRATEGIES[:2] if strategy in alone}
    found |= {"bits": "same bits" if same else "other bits"}
    return found | {"stash": memory["stash"][0], "average": memory["ema-span"][0], "last": memory["stash"][1]}


def _call(model: Model) -> str:
    example = model.example()
    given = "{" + ", ".join(example) + "}" if isinstance(example, dict) else "x"
    return f"cut(network, {given}, 2{''.join(f', {key}={value!r}' for key, value in model.how.items())})"


def in_processes(name: str, at: list[str]) -> Found:
    """The same by two processes, of which each has a stage.

    Raises:
        UserError: if they fail, with their last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "layerpipe2", "launch", "--processes", "2", "--threads", "1", "--", "-m"]
        command = [sys.executable, *launch, "experiments.models.train", name, json.dumps(at), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"two processes fail: {(done.stderr.strip() or 'without a line').splitlines()[-1]}")
        first, second = (json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2))
    for strategy, one in first.items():
        one["digests"] |= second[strategy]["digests"]
    made: Found = first
    return made


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown; columns without an entry are left out."""
    shown = {key: title for key, title in TITLES.items() if any(one[key] for one in rows)}
    lines = [list(shown.values()), ["---"] * len(shown)]
    lines += [[f"`{one[key]}`" if key in ("call", "at") and one[key] else one[key] for key in shown] for one in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(text: str, rows: Sequence[Row]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table(rows)}\n{_END}{rest.partition(_END)[2]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the networks whose names have one of the words, or all; write results/models and docs/models.md.

    Raises:
        UserError: if no name has one of the words, or a loss isn't finite.
    """
    parser = Parser(prog="python -m experiments.models", description=__doc__)
    parser.add_argument("words", nargs="*", help="words in the names of networks")
    words = parser.parse_args(arguments).words
    chosen = [name for name in MODELS if not words or any(word in name for word in words)]
    if not chosen:
        raise UserError(f"no network has {words} in its name; known: {', '.join(MODELS)}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows: dict[str, Row] = {}
    if _CSV.exists():
        with _CSV.open() as file:
            rows = {one["network"]: one for one in csv.DictReader(file) if one["network"] in MODELS}
    for name in chosen:
        rows[name] = row(name)
        print(" ".join(filter(None, rows[name].values())), flush=True)
        losses: list[Any] = [value for key, value in rows[name].items() if key.startswith("loss") and value]
        if not all(math.isfinite(float(loss)) for loss in losses):
            raise UserError(f"{name}: a loss is not finite")
        ordered = [rows[known] for known in MODELS if known in rows]
        write_csv(_CSV, TITLES, ordered)
        write_text(_PAGE, page(_PAGE.read_text(), ordered))


if __name__ == "__main__":
    sys.exit(run_command("models", main, None))
