"""Simulated speeds over PipeDream, and where LayerPipe's numbers fall in our model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.lab.reference import REFERENCE
from layerpipe2.planning.schedules import SCHEDULES
from paper_figures import style
from paper_figures.page import report
from paper_figures.text import number, percent
from paper_figures.theory import Theory

ANCHORS = (1.25, 1.80)
"""LayerPipe's abstract: speed over PipeDream on average, and at most with 7 to 9 processors."""


@report.value
def layerpipe(schedules: pd.DataFrame) -> tuple[str, ...]:
    """Where LayerPipe's abstract falls: sentences, no verdict, since placement and device are our own reading."""
    table = schedules
    fine = table[table["schedule"] == "layerpipe"]
    many = fine[fine["processors"].between(7, 9)]
    mean, best = many["speed"].mean(), many.loc[many["speed"].idxmax()]
    over = int((many["speed"] > ANCHORS[1]).sum())
    sent = _bytes(table, "layerpipe") / _bytes(table, "pipedream")
    ours = table.loc[table["schedule"] == "layerpipe2", "speed"]
    return (
        f"LayerPipe's abstract: {_percent(ANCHORS[0])} on average, up to {_percent(ANCHORS[1])} with 7 to 9 "
        f"processors. Here with 7 to 9 processors: {_percent(mean)} on average (n={len(many)}), from "
        f"{_percent(many['speed'].min())} to {_percent(best['speed'])} ({REFERENCE[best['network']].label} on "
        f"{best['processors']} processors); {over} of these cases are above {_percent(ANCHORS[1])}. Over all "
        f"{len(fine)} cases of {fine['network'].nunique()} networks: {_percent(fine['speed'].mean())}. So in this "
        f"model the average is {_beside(mean, ANCHORS[0])} the abstract's, and the largest gain is "
        f"{_beside(best['speed'], ANCHORS[1])} its largest. LayerPipe places tasks finer than layers; a pipeline with "
        "whole layers per processor, PipeDream's too, has at most as many stages as the network has layers.",
        f"It sends fewer bytes than PipeDream in {int((sent < 1).sum())} of {len(fine)} cases, and {sent.mean():.1f} "
        "times as many on average: 'less communication' is not what we find, since the finer cut sends inputs to "
        "weight gradients elsewhere and new weights to wherever they are read.",
        f"LayerPipe2's own schedule, with whole layers per processor, is {_percent(ours.mean(), 1)} on average: its "
        "doubled delay hides time on the links, and does not balance the stages.",
    )


def _bytes(table: pd.DataFrame, schedule: str) -> pd.Series:
    """Megabytes per batch by network and number of processors."""
    return table[table["schedule"] == schedule].set_index(["network", "processors"])["megabytes"]


def _beside(found: float, published: float) -> str:
    return "above" if found > published else "not above"


def _percent(ratio: float, digits: int = 0) -> str:
    return percent(ratio - 1, f"+.{digits}f")


def speed_table(theory: Theory) -> pd.DataFrame:
    """Speed over PipeDream: networks and schedules down, processors across; a dash where it can't use the network."""
    table = theory.schedules
    order = [name for name in SCHEDULES if name != "pipedream"]
    wide = table.pivot_table(index=["network", "schedule"], columns="processors", values="speed", sort=False)
    wide = wide.loc[[(n, s) for n in dict.fromkeys(table["network"]) for s in order if (n, s) in wide.index]]
    shown = wide.map(number(2)).reset_index()
    shown["network"] = [REFERENCE[name].label for name in shown["network"]]
    shown["schedule"] = [SCHEDULES[name].label for name in shown["schedule"]]
    return shown.rename(columns=lambda name: f"P={name}" if isinstance(name, int) else str(name))


@report.value
def schedule_means(theory: Theory) -> pd.DataFrame:
    """Every schedule over all networks and numbers of processors: speed over PipeDream, utilisation, bytes."""
    rows = []
    cases = dict(list(theory.schedules.set_index(["network", "processors"]).groupby("schedule")))
    for name in (name for name in SCHEDULES if name in cases):
        sent = cases[name]["megabytes"] / cases["pipedream"]["megabytes"].reindex(cases[name].index)
        speed, used = cases[name]["speed"], 100 * cases[name]["utilisation"].mean()
        means = [f"{value:.2f}" for value in (speed.mean(), speed.min(), speed.max())]
        rows.append((SCHEDULES[name].label, len(speed), *means, f"{used:.0f}", f"{sent.mean():.2f}"))
    columns = ["schedule", "cases", "speed over PipeDream, mean", "least", "most", "utilisation, mean (%)"]
    return pd.DataFrame(rows, columns=[*columns, "bytes over PipeDream's, mean"], dtype=object)


@report.value
def device_table(theory: Theory) -> pd.DataFrame:
    """LayerPipe's speed over PipeDream by device, with 3 to 6 and with 7 to 9 processors."""
    rows = []
    for device, mine in theory.devices[theory.devices["schedule"] == "layerpipe"].groupby("device", sort=False):
        row: dict[str, object] = {"device": device}
        for low, high in ((3, 6), (7, 9)):
            speed = mine.loc[mine["processors"].between(low, high), "speed"]
            row[f"{low} to {high} processors, mean"] = f"{speed.mean():.2f}"
            row[f"{low} to {high}: least to most"] = f"{speed.min():.2f} to {speed.max():.2f} (n={len(speed)})"
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


_LOOKS: dict[str, dict[str, Any]] = {
    "layerpipe": {"color": style.OTHERS[0], "marker": "o", "linestyle": (0, ()), "linewidth": 1.6},
    "layerpipe2": {"color": style.OTHERS[1], "marker": "s", "linestyle": (0, (5, 1.5))},
    "pipedream": {"color": "#000000", "marker": "", "linestyle": (0, (4, 2)), "linewidth": 0.8},
    "zb-h1": {"color": style.OTHERS[2], "marker": "^", "linestyle": (0, (1, 1))},
    "1f1b": {"color": style.OTHERS[3], "marker": "v", "linestyle": (0, (3, 1, 1, 1))},
    "gpipe": {"color": style.OTHERS[4], "marker": "D", "linestyle": (0, (1, 2)), "markersize": 3},
    "interleaved": {"color": style.OTHERS[5], "marker": "P", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
}


@report.figure("schedules_speed", data="schedules")
def speeds(schedules: pd.DataFrame) -> Figure:
    """Speed over PipeDream against the number of processors, a panel per network; grey lines: LayerPipe's abstract."""
    table, names = schedules, list(dict.fromkeys(schedules["network"]))
    figure, axes = style.canvas(4.2, 3, 2, sharey=True, sharex=True)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.axhline(ANCHORS[0], color="#777777", linewidth=0.8, zorder=1)
        axis.plot((7, 9), (ANCHORS[1], ANCHORS[1]), color="#777777", linewidth=0.8, zorder=1)
        for schedule, looks in _LOOKS.items():
            mine = table[(table["network"] == name) & (table["schedule"] == schedule)]
            axis.plot(mine["processors"], mine["speed"], clip_on=False, **looks)
        axis.set(title=REFERENCE[name].label, xticks=sorted(set(table["processors"])))
        axis.tick_params(labelbottom=True)
    for spare in axes.flat[len(names) :]:
        spare.axis("off")
        handles = [style.handle(SCHEDULES[s].label, **looks) for s, looks in _LOOKS.items()]
        mean, most = (f"+{100 * (anchor - 1):.0f} %" for anchor in ANCHORS)
        text = f"LayerPipe's abstract:\n{mean} on average; {most} at\nmost, with 7 to 9 processors"
        anchors = style.handle(text, color="#777777", linewidth=0.8)
        spare.legend(handles=[*handles, anchors], loc="center left", borderaxespad=0)
    for axis in axes.flat[max(0, len(names) - 3) : len(names)]:
        axis.set_xlabel("processors")
    figure.supylabel("speed over PipeDream", fontsize=8)
    style.title(figure, "How fast each schedule is beside PipeDream's, by number of processors")
    arrays = "Modelled: 128 × 128 systolic arrays at 1 GHz, links 64 GB/s, batches of 32."
    style.note(figure, f"{arrays} AlexNet has 8 stages at most.")
    return figure


@report.figure("schedules_devices", data="results/theory/devices.csv")
def devices(devices: pd.DataFrame) -> Figure:
    """LayerPipe's speed over PipeDream on every device: a mark per network and number of processors, and the mean."""
    table, labels = devices, list(dict.fromkeys(devices["device"]))[::-1]
    networks = list(dict.fromkeys(table["network"]))
    figure, axes = style.canvas(2.7, 2, 1, sharey=True, sharex=True)
    for axis, (low, high) in zip(axes[0], ((3, 6), (7, 9)), strict=True):
        for height in ANCHORS:
            axis.axvline(height, color="#777777", linewidth=0.8, zorder=1)
        axis.axvline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
        mine = table[(table["schedule"] == "layerpipe") & table["processors"].between(low, high)]
        _draw_marks(axis, mine, labels, networks)
        axis.set(title=f"{low} to {high} processors", xlabel="speed of LayerPipe over PipeDream")
    axes[0, 0].set_yticks(range(len(labels)), labels)
    handles = [style.handle(REFERENCE[n].label, linestyle="", **_mark(i)) for i, n in enumerate(networks)]
    mean = style.handle("mean", linestyle="", marker="|", color="black", markersize=11, markeredgewidth=2)
    style.legend(figure, [*handles, mean], 6, "LayerPipe over PipeDream, by kind of device")
    marks = "LayerPipe in our reading, modelled; st.: stationary. Marks: a network and number of processors."
    lines = "Grey lines: its abstract, +25 % on average, +80 % at most. Dashed: as fast as PipeDream."
    style.note(figure, f"{marks}\n{lines}")
    return figure


def _mark(index: int) -> dict[str, Any]:
    color = style.OTHERS[index % 5]
    return {"color": color, "marker": "osDv^"[index % 5], "markersize": 4, "markeredgecolor": "white", "mew": 0.3}


def _draw_marks(axis: Any, mine: pd.DataFrame, labels: Sequence[str], networks: Sequence[str]) -> None:
    for height, label in enumerate(labels):
        here = mine[mine["device"] == label]
        for index, network in enumerate(networks):
            speeds = here.loc[here["network"] == network, "speed"]
            shift = np.full(len(speeds), height + 0.13 * (2 - index))
            axis.plot(speeds, shift, linestyle="", clip_on=False, **_mark(index))
        axis.plot(here["speed"].mean(), height, marker="|", color="black", markersize=14, markeredgewidth=2, zorder=2.5)


report.table("schedules", shown=speed_table)(lambda theory: theory.schedules)
