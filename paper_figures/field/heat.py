"""Every mitigation with every optimizer: what it loses against sequential training."""

import math
from itertools import product
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from paper_figures import style
from paper_figures.field.page import BASELINES, SETUPS, defined, field, label
from paper_figures.text import network_label, span


@field.figure("heat_{law}", each="law in laws", data="outcomes")
def heat(outcomes: pd.DataFrame, law: str) -> Figure:
    """A panel per network, a row per mitigation, a column per optimizer; the number is the difference."""
    mine = outcomes[outcomes["law"] == law]
    rows = [
        *(name for name in BASELINES if name in set(mine["row"])),
        *sorted({*mine["row"]} - {*BASELINES}, key=label),
    ]
    columns = [name for name in SETUPS.values() if name in set(mine["setup"])]
    networks = list(dict.fromkeys(mine["network"]))
    figure, axes = style.canvas(1.7 + 0.21 * len(rows), len(networks), sharey=True)
    worst = _darkest(mine)
    for axis, network in zip(axes[0], networks, strict=True):
        _panel(axis, mine[mine["network"] == network], rows, columns, worst)
        axis.set_title(network_label(network))
    axes[0, 0].set_yticks(range(len(rows)), [label(row) for row in rows])
    style.title(figure, f"Test accuracy minus sequential training's with the same optimizer, in points (law {law})")
    final = mine[mine["final"]]
    said = mine["final"] | mine["cost"].isna()  # elsewhere the number alone is shown
    lost = " x2: two runs diverged and are not in the mean." if (said & (mine["diverged"] > 0)).any() else ""
    style.note(
        figure,
        f"Bold, framed: final runs, mean of pairs with one seed, n = {span(final['n'])}. Grey, italic: outside the "
        f"front;\nvalidation accuracy of the search, n = 2.{lost} Intervals: table. Darkest from {worst:g} on. "
        "–: not defined.",
    )
    return figure


def _darkest(cells: pd.DataFrame) -> float:
    """The difference from which a cell is darkest: the worst of the optimizers with rows enough to compare."""
    rows = cells.groupby("setup")["row"].transform("nunique")
    many = cells[rows > len(BASELINES)]
    return float(math.floor(-(many if len(many) else cells)["cost"].max()))


def _panel(axis: Any, cells: pd.DataFrame, rows: list[str], columns: list[str], worst: float) -> None:
    shade, colours = Normalize(worst, 0, clip=True), colormaps["YlOrBr_r"]
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axis.set_xticks(range(len(columns)), columns, fontsize=6.5, rotation=30, ha="right", rotation_mode="anchor")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    there = {(cell.setup, cell.row) for cell in cells.itertuples()}
    for x, y in product(range(len(columns)), range(len(rows))):
        if (columns[x], rows[y]) not in there:
            why = "not run" if defined(rows[y], columns[x]) else "–"
            axis.text(x, y, why, ha="center", va="center", fontsize=5.5, color="#999999")
    for cell in cells.itertuples():
        x, y = columns.index(cell.setup), rows.index(cell.row)
        known = pd.notna(cell.cost)
        ground = colours(0.25 + 0.75 * shade(-cell.cost)) if known else "#eeeeee"
        axis.add_patch(
            Rectangle(
                (x - 0.48, y - 0.46),
                0.96,
                0.92,
                facecolor=ground,
                edgecolor="#333333" if cell.final else "none",
                linewidth=0.7,
            )
        )
        text = f"{-cell.cost:+.1f}" if known else ""
        text += f" x{cell.diverged}" if cell.diverged and (cell.final or not known) else ""
        looks = {"weight": "bold", "color": "black"} if cell.final else {"style": "italic", "color": "#444444"}
        axis.text(x, y, text.strip(), ha="center", va="center", fontsize=6, **looks)
