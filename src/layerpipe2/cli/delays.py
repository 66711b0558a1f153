"""``layerpipe2 delays``."""

import argparse

from layerpipe2.cli.commands import GridOptions
from layerpipe2.cli.console import fitted, span, terminal_width
from layerpipe2.cli.options import read_options
from layerpipe2.delays import aligned
from layerpipe2.history import STRATEGIES, make_history
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.plan import Plan, plan_from


def run(options: argparse.Namespace) -> None:
    """Print the stage table, the modelled memory per strategy, and what happens tick by tick.

    Raises:
        UserError: on bad settings.
    """
    ticks = read_options(GridOptions, options).ticks
    config = read_options(RunConfig, options)
    plan = plan_from(config)
    stages = plan.delays.num_stages
    print(f"{config.network} for {config.dataset}: {plan.units} units, {stages} stages, delay law {config.convention}")
    print(f"\n{stage_table(plan)}\n\n{memory_table(plan)}\n")
    grid = plan.delays.grid
    print(grid(ticks) if ticks else fitted(grid, 2 * stages + 1, terminal_width()))


def stage_table(plan: Plan) -> str:
    """One line per stage: its units, parameters and delay in updates."""
    rows, first = [["stage", "units", "parameters", "delay"]], 0
    sizes = plan.parameters_per_stage
    for k, (stage, size, delay) in enumerate(zip(plan.stages, sizes, plan.delays.per_stage, strict=True)):
        rows.append([str(k), span(first, first + len(stage)), f"{size:,d}", str(delay)])
        first += len(stage)
    return "\n".join(aligned(rows))


def memory_table(plan: Plan) -> str:
    """Modelled history memory of every strategy, as multiples of the network's size, and what these are."""
    names = [name for name in STRATEGIES if name != "sequential"]
    width = max(map(len, names))
    rows = [f"{name:{width}}  {plan.history_copies(make_history(name)):6.2f}" for name in names]
    note = "copies: of all the network's parameters, held beside the latest weights"
    return "\n".join([f"{'strategy':{width}}  copies", *rows, note])
