"""``layerpipe2 stability``."""

import argparse
from functools import cache, partial
from typing import Any

from layerpipe2.cli.console import print_json
from layerpipe2.delays import aligned
from layerpipe2.errors import integer
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.runs.plan import plan_from
from layerpipe2.theory.stability import largest_stable_step

_LONGEST = 64
"""Longest delay whose polynomial's roots are found in a fraction of a second."""


def run(options: argparse.Namespace) -> None:
    """Print the largest stable step of every stage, of the pipeline and of sequential training, or all that as JSON.

    Raises:
        UserError: on bad settings.
    """
    config = read_run(options)
    plan = plan_from(config)
    bound = cache(partial(largest_stable_step, momentum=config.momentum, nesterov=config.nesterov))
    delays = plan.delays.per_stage
    integer(max(delays), "largest delay", 0, _LONGEST)
    whole, worst = bound(0), bound(max(delays))
    found: list[dict[str, Any]] = [
        {"stage": k, "units": len(stage), "delay": delay, "largest_stable_step": bound(delay)}
        for k, (stage, delay) in enumerate(zip(plan.stages, delays, strict=True))
    ]
    if options.json:
        used = {name: getattr(config, name) for name in ("network", "convention", "momentum", "nesterov")}
        print_json(used | {"stages": found, "sequential": whole, "pipeline": worst})
        return
    rows = [["stage", "units", "delay", "largest stable step", "of sequential"]]
    for row in found:
        *counts, step = row.values()
        rows.append([*map(str, counts), f"{step:.6g}", f"{100 * step / whole:.3g} %"])
    form = f"momentum {config.momentum:g}{', Nesterov' if config.nesterov else ''}"
    print(f"{config.network}: {len(delays)} stages, delay law {config.convention}, sgd with {form}")
    print("step: learning rate x curvature (largest eigenvalue of the loss's Hessian in the stage's weights)\n")
    print("\n".join(aligned(rows)))
    print(
        f"\nsequential (delay 0): {whole:.6g}. With the same curvature in every stage the largest delay decides: "
        f"{worst:.6g}, {whole / worst:.3g} times smaller.\nExact for a quadratic with one delay; stages that share "
        "their curvature are stable up to larger steps (layerpipe2.theory.stability)."
    )
