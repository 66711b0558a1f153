"""``layerpipe2 stability``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from layerpipe2.cli.options import read_options
from layerpipe2.delays import Delays, aligned
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.plan import plan_from
from layerpipe2.theory.stability import largest_stable_step


def run(options: argparse.Namespace) -> None:
    """Print the largest stable step of every stage, of the pipeline and of sequential training.

    Raises:
        UserError: on bad settings.
    """
    config = read_options(RunConfig, options)
    plan = plan_from(config)
    form = f"momentum {config.momentum:g}{', Nesterov' if config.nesterov else ''}"
    print(f"{config.network}: {plan.delays.num_stages} stages, delay law {config.convention}, sgd with {form}")
    print("step: learning rate x curvature (largest eigenvalue of the loss's Hessian in the stage's weights)\n")
    print(table(plan.delays, [len(stage) for stage in plan.stages], config))
    print(f"\n{comparison(plan.delays, config)}")


def table(delays: Delays, units: Sequence[int], config: RunConfig) -> str:
    """One line per stage: units, delay in updates, largest stable step, and its share of that without delay."""
    whole = _step(0, config)
    rows = [["stage", "units", "delay", "largest stable step", "of sequential"]]
    for k, (count, delay) in enumerate(zip(units, delays.per_stage, strict=True)):
        step = _step(delay, config)
        rows.append([str(k), str(count), str(delay), f"{step:.6g}", f"{100 * step / whole:.3g} %"])
    return "\n".join(aligned(rows))


def comparison(delays: Delays, config: RunConfig) -> str:
    """What the largest delay costs against sequential training."""
    whole, worst = _step(0, config), _step(max(delays.per_stage), config)
    return (
        f"sequential (delay 0): {whole:.6g}. With the same curvature in every stage the largest delay decides: "
        f"{worst:.6g}, {whole / worst:.3g} times smaller.\nExact for a quadratic with one delay; stages that share "
        "their curvature are stable up to larger steps (layerpipe2.theory.stability)."
    )


def _step(delay: int, config: RunConfig) -> float:
    return largest_stable_step(delay, config.momentum, config.nesterov)
