"""``layerpipe2 advise``: does this training need a weight history?"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerpipe2.cli.console import print_json
from layerpipe2.cli.early import read_run
from layerpipe2.delays import aligned
from layerpipe2.engine.allocator import keep_freed_memory
from layerpipe2.lab.data import load

if TYPE_CHECKING:
    from layerpipe2.advice.result import Advice, Measured


def run(options: argparse.Namespace) -> None:
    """Measure, and print tables and one sentence, or all that as JSON.

    Raises:
        UserError: on bad settings or data, a pipeline without delays, or a training that ends too early.
    """
    keep_freed_memory()
    config = read_run(options)
    root = Path(config.data_root) if config.data_root else None
    data = load(config.dataset, root, download=options.download, announce=partial(print, file=sys.stderr))
    from layerpipe2.lab.advice import advise  # takes seconds

    advice = advise(config, steps=options.steps, data=data, strategies=options.strategies)
    if options.json:
        print_json(advice.to_dict())
        return
    print(f"{config.network} on {config.dataset}, {config.optimizer}, learning rate {config.lr:g}")
    if advice.updates:
        print(tables(advice))
    print(advice.sentence)


def tables(advice: Advice) -> str:
    """Stages, strategies and stability."""
    rows = [["stage", "delay", "parameters", "drift", "correlation", "alignment of latest"]]
    for one in (*advice.stages, advice.total):
        name = "all" if one.stage is None else str(one.stage)
        measured = (one.drift, one.update_correlation, one.strategies["latest"].alignment)
        rows.append([name, str(one.delay), f"{one.parameters:,d}", *map(_number, measured)])
    lines = [f"measured over {advice.updates} updates by exact stashing, once the pipeline was full\n", *aligned(rows)]
    return "\n".join([*lines, "", *aligned(_strategies(advice.total)), "", _stability(advice), ""])


def _strategies(total: Measured) -> list[list[str]]:
    rows = [["strategy", "error of the weights", "alignment", "norm ratio", "error of the gradient"]]
    for name, quality in total.strategies.items():
        measured = (quality.error, quality.alignment, quality.norm_ratio, quality.gradient_error)
        rows.append([name, *map(_number, measured)])
    return rows


def _stability(advice: Advice) -> str:
    found = advice.stability
    if found is None:
        return f"stability: not measured: {advice.not_measured or 'training ended before'}"
    return (
        f"stability: learning rate x curvature of a mini-batch is {found.step:.3g}; theory allows {found.bound:.3g} "
        f"wherever the curvature is, {found.shared_bound:.3g} where it is"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
