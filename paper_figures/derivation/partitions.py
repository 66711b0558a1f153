"""What follows from the partition alone: delays and modelled memory."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.lab.looks import ordered
from layerpipe2.strategies import find_strategy
from paper_figures import style
from paper_figures.page import report
from paper_figures.records import CONFIGURATION, Records
from paper_figures.text import for_readers, law_label, plural, setting

_BYTES_PER_PARAMETER = 4  # float32


_MIB = 2**20


@report.table("delays", shown=for_readers)
def delay_table(records: Records) -> pd.DataFrame:
    """Delays by network and partition, input side first, as recorded and as each delay law would have them."""
    rows = []
    for (network, group), stages in records.stages.groupby(CONFIGURATION):
        recorded = [int(d) for d in stages.sort_values("stage")["delay"]]
        laws = [DELAY_LAWS[name].delays(len(recorded)) for name in ("layerpipe2", "pipedream")]
        rows.append((network, len(recorded), group, *(" ".join(map(str, delays)) for delays in (recorded, *laws))))
    columns = ["network", "stages", "group_size", "recorded_delays", "layerpipe2_delays", "pipedream_delays"]
    return records.sorted(pd.DataFrame(rows, columns=columns))


@report.table("memory", shown=for_readers)
def memory_table(records: Records) -> pd.DataFrame:
    """Modelled weight-history memory: copies of the model's parameters beside the latest ones, and float32 MiB."""
    parameters = records.stages.groupby(CONFIGURATION, as_index=False)["parameters"].sum()
    first = records.runs.groupby([*CONFIGURATION, "strategy"])[["num_stages", "history_copies"]].first().reset_index()
    rows = first.rename(columns={"num_stages": "stages", "history_copies": "copies"})
    rows = rows.merge(parameters, how="left", on=CONFIGURATION)
    rows["mib"] = rows["copies"] * rows["parameters"] * _BYTES_PER_PARAMETER / _MIB
    return records.sorted(rows)


@report.figure("delays")
def delays(records: Records) -> Figure:
    """Delay of every unit, one line per group size; the other delay law is drawn thin and dashed."""
    other = "pipedream" if records.convention == "layerpipe2" else "layerpipe2"
    looks = _group_styles(records)
    figure, axes = style.panels(records.networks, 2.5, "unit (0 = input side)", "delay (updates)")
    for network, axis in axes.items():
        for group, delay in _partitions(records, network):
            length = records.units().get(network, group * len(delay))
            law = DELAY_LAWS[other].delays(len(delay))
            _draw_delays(axis, delay, group, length, looks[group])
            _draw_delays(axis, law, group, length, looks[group] | _THIN)
        style.integer_ticks(axis)
    title = "How many updates late the gradient of each unit is"
    style.legend(figure, [style.handle(_size_label(g), **looks[g]) for g in looks], title=title)
    recorded, thin = law_label(records.convention), law_label(other)
    style.note(figure, f"Solid lines with markers: {recorded}, as recorded. Thin dashes: {thin}, for comparison.")
    return figure


_THIN: dict[str, Any] = {"linestyle": (0, (2, 1.5)), "marker": "", "linewidth": 0.8, "zorder": 3}


def _draw_delays(axis: Any, delay: Sequence[int], group: int, length: int, looks: dict[str, Any]) -> None:
    axis.plot(range(length), [delay[unit // group] for unit in range(length)], drawstyle="steps-mid", **looks)


def _partitions(records: Records, network: str) -> list[tuple[int, list[int]]]:
    mine = records.stages[records.stages["network"] == network].sort_values("stage")
    return [(int(group), rows["delay"].tolist()) for group, rows in mine.groupby("group_size") if len(rows) > 1]


def _group_styles(records: Records) -> dict[int, dict[str, Any]]:
    # Shades of one colour map, so that a group size is never mistaken for a strategy.
    groups = sorted({group for network in records.networks for group, _ in _partitions(records, network)})
    shades = mpl.colormaps["viridis"](np.linspace(0.1, 0.8, max(len(groups), 1)))
    return {g: {"color": shades[i], "marker": "osD^vP*h"[i % 8]} for i, g in enumerate(groups)}


def _size_label(group: int) -> str:
    return f"{plural(group, 'unit')} per stage"


@report.figure("memory")
def memory(records: Records) -> Figure:
    """Copies of the parameters that a strategy needs, against the number of stages; equal strategies share a line."""
    table = memory_table(records)
    figure, axes = style.panels(records.networks, 2.5, "stages", "parameter copies\nbeside the latest (modelled)")
    handles: dict[str, Line2D] = {}
    for network, axis in axes.items():
        pipelined = table[(table["network"] == network) & (table["stages"] > 1)]
        for strategies, line in _same_lines(pipelined):
            looks = style.line(strategies[0]) if len(strategies) == 1 else _SHARED
            (drawn,) = axis.plot(line.index, line.to_numpy(), clip_on=False, **looks)
            handles.setdefault(_joined(strategies), drawn)
        axis.set_xticks(sorted(set(pipelined["stages"])))
    axis.set_ylim(bottom=0)  # the axes share y, and this ends its autoscaling: only after the last line
    for label, line in handles.items():
        line.set_label(label)
    style.legend(figure, list(handles.values()), 6, "How many copies of the weights each strategy keeps")
    style.note(figure, setting(records.dataset, records.convention))
    return figure


_SHARED: dict[str, Any] = {"color": "#444444", "marker": "d", "linestyle": (0, (3, 1, 1, 1))}
"""A line that several strategies share has no strategy's colour."""


def _same_lines(table: pd.DataFrame) -> list[tuple[list[str], pd.Series]]:
    groups: dict[tuple[Any, ...], tuple[list[str], pd.Series]] = {}
    for strategy in ordered(table["strategy"]):
        line = table[table["strategy"] == strategy].set_index("stages")["copies"].sort_index()
        key = (tuple(line.index), tuple(line.round(9)))
        groups.setdefault(key, ([], line))[0].append(strategy)
    return list(groups.values())


def _joined(strategies: list[str]) -> str:
    rows = [find_strategy(strategy) for strategy in strategies]
    averages = [row.label.removeprefix("EMA ") for row in rows if row.family == "average"]
    rest = [row.label for row in rows if row.family != "average"]
    return ", ".join(rest + ([f"EMA {', '.join(averages)}"] if averages else []))
