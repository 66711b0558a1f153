"""``layerpipe2 advise``: how does this training begin with each strategy?"""

import argparse
import math
import sys
from collections.abc import Iterable
from typing import Any

from layerpipe2.advice import Advice, advise_module
from layerpipe2.cli.console import in_words, print_json
from layerpipe2.cli.own import own_pipeline, refuse_settings
from layerpipe2.delays import aligned
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.engine.module import PipelinedModule

_BAR = 30
"""Columns of the progress bar."""
_KNOWN = 6
"""Updates after which the time that is left can be told."""


class Bar:
    """The progress of the updates on stderr: a bar on a terminal; elsewhere one line with the time they take."""

    def __init__(self) -> None:
        self._terminal, self._drawn = sys.stderr.isatty(), False

    def __call__(self, done: int, steps: int, seconds_left: float) -> None:
        """Show progress after every update."""
        if done < _KNOWN or math.isnan(seconds_left):
            return
        left = f"{in_words(seconds_left)} left"
        if self._terminal:
            filled = _BAR * done // steps
            bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] update {done}/{steps}, {left}"
            print(f"\r{bar:<80}", end="", file=sys.stderr, flush=True)
        elif not self._drawn:
            print(f"{steps} updates of each training, {left}", file=sys.stderr, flush=True)
        self._drawn = True

    def close(self) -> None:
        """Leave the terminal's line to others."""
        if self._terminal and self._drawn:
            print(f"\r{'':<80}\r", end="", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> None:
    """Train what one's own function returns; print tables and sentences, or all that as JSON.

    Raises:
        UserError: on a pipeline without delays, or settings that don't work together.
    """
    keep_freed_memory()
    module, loader = own_pipeline(options.module)
    refuse_settings(options, ["stages"])
    advise_pipeline(options, options.module, module, loader)


def advise_pipeline(
    options: argparse.Namespace, title: str, module: PipelinedModule, loader: Iterable[Any], device: str = "auto"
) -> None:
    """Train a module's stages on its batches, and print the same under a title.

    Raises:
        UserError: likewise.
    """
    bar, chosen = Bar(), options.strategies
    advice = advise_module(module, loader, steps=options.steps, strategies=chosen, device=device, progress=bar)
    bar.close()
    show(advice, title, as_json=options.json)


def show(advice: Advice, title: str, *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        print_json(advice.to_dict())
        return
    print(f"{title}: {advice.updates} updates with each strategy, side by side from the first one\n")
    tables = (_losses(advice), _qualities(advice), _memory(advice))
    for head, rows in tables:
        print(head, *aligned(rows), "", sep="\n")
    print(*advice.sentences, sep="\n")


def _losses(advice: Advice) -> tuple[str, list[list[str]]]:
    names = list(advice.rows[0].losses)
    rows = [[str(row.updates), *(_number(row.losses[name], "diverged") for name in names)] for row in advice.rows]
    return "mean training loss since the row before", [["updates", *names], *rows]


def _qualities(advice: Advice) -> tuple[str, list[list[str]]]:
    ends = [row.updates for row in advice.rows]
    heads = [f"{what} {end}" for what in ("error", "cosine") for end in ends]
    rows = [["stage", "delay", "weights", *heads]]
    for stage in advice.stages:
        for name, qualities in stage.qualities.items():
            found = {quality.updates: quality for quality in qualities}
            cells = (getattr(found.get(e), what, None) for what in ("recall_error", "gradient_cosine") for e in ends)
            rows.append([str(stage.stage), str(stage.delay), name, *map(_number, cells)])
    return "along stash, up to so many updates: error of the recalled weights, cosine of their gradient", rows


def _memory(advice: Advice) -> tuple[str, list[list[str]]]:
    names = list(advice.stages[0].qualities)
    rows = [["rank", "parameters", "stash keeps", *(f"{name} saves" for name in names)]]
    for stage in advice.stages:
        saved = [f"{stage.saved(name):.3g}" for name in names]
        rows.append([str(stage.stage), f"{stage.parameters:,d}", f"{stage.megabytes['stash']:.3g}", *saved])
    return "copies of weights, in MB", rows


def _number(value: float | None, missing: str = "-") -> str:
    return missing if value is None else f"{value:.3g}"
