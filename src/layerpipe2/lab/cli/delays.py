"""``layerpipe2 delays``."""

import argparse
from typing import Any

from layerpipe2.cli.console import fitted, print_json, span, terminal_width
from layerpipe2.delays import aligned
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.runs.plan import Plan, plan_from
from layerpipe2.strategies import STRATEGIES, make_strategy


def run(options: argparse.Namespace) -> None:
    """Print the stage table, the modelled memory per strategy, and what happens tick by tick; or the same as JSON.

    Raises:
        UserError: on bad settings.
    """
    ticks, config = options.ticks, read_run(options)
    plan = plan_from(config)
    found, stages = facts(plan), plan.delays.num_stages
    if options.json:
        print_json(found | {"grid": plan.delays.cells(ticks or 2 * stages + 1)})
        return
    print("{network} for {dataset}: {units} units, ".format_map(found), end="")
    print(f"{stages} stages, delay law {config.convention}\n\n{stage_table(found)}\n\n{memory_table(found)}\n")
    grid = plan.delays.grid
    print(grid(ticks) if ticks else fitted(grid, 2 * stages + 1, terminal_width()))


def facts(plan: Plan) -> dict[str, Any]:
    """What is known of a pipeline: per stage the numbers of its units, parameters and delay; copies per strategy.

    ``copies``: modelled history memory, as multiples of the network's size.
    """
    config, rows, first = plan.config, [], 0
    sizes = plan.parameters_per_stage
    for k, (stage, size, delay) in enumerate(zip(plan.stages, sizes, plan.delays.per_stage, strict=True)):
        units = list(range(first, first + len(stage)))
        rows.append({"stage": k, "units": units, "parameters": size, "delay": delay})
        first += len(stage)
    names = [name for name in STRATEGIES if name != "sequential"]
    return {
        "network": config.network,
        "dataset": config.dataset,
        "units": plan.units,
        "convention": config.convention,
        "stages": rows,
        "copies": {name: plan.history_copies(make_strategy(name)) for name in names},
    }


def stage_table(found: dict[str, Any]) -> str:
    """One line per stage: its units, parameters and delay in updates."""
    rows = [["stage", "units", "parameters", "delay"]]
    for row in found["stages"]:
        units = span(row["units"][0], row["units"][-1] + 1)
        rows.append([str(row["stage"]), units, f"{row['parameters']:,d}", str(row["delay"])])
    return "\n".join(aligned(rows))


def memory_table(found: dict[str, Any]) -> str:
    """Modelled history memory of every strategy, as multiples of the network's size, and what these are."""
    rows = [["strategy", "copies"], *([name, f"{copies:.2f}"] for name, copies in found["copies"].items())]
    note = "copies: of all the network's parameters, held beside the latest weights"
    return "\n".join([*aligned(rows, left=1), note])
