"""``layerpipe2 advise``: does this training need a weight history?"""

import argparse

from layerpipe2.advice import Advice, advise_module
from layerpipe2.advice.result import Measured
from layerpipe2.cli.console import print_json
from layerpipe2.cli.own import own_training
from layerpipe2.delays import aligned
from layerpipe2.engine.allocator import keep_freed_memory


def run(options: argparse.Namespace) -> None:
    """Measure a training of one's own; print tables and one sentence, or all that as JSON.

    Raises:
        UserError: on a pipeline without delays, or a training that ends too early.
    """
    keep_freed_memory()
    module, loader = own_training(options.module)
    advice = advise_module(module, loader, steps=options.steps, strategies=options.strategies)
    show(advice, options.module, as_json=options.json)


def show(advice: Advice, title: str, *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print_json(advice.to_dict())
        return
    print(title)
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
