"""Tables of the theory: proofs, costs of partitions, simulated schedules; from data frames to text for readers."""

from __future__ import annotations

import pandas as pd

from layerpipe2.planning.reference import REFERENCE
from layerpipe2.planning.schedules import SCHEDULES
from paper_figures.records.theory import Theory
from paper_figures.text import law_label, network_label, number


def proofs(theory: Theory) -> pd.DataFrame:
    """Derivations by network, convention and group size: stages, delays, and how many of the proofs hold."""
    keys = ["network", "convention", "group_size", "stages", "delays"]
    table = theory.proofs.groupby(keys, sort=False)["holds"].agg(["sum", "size"]).reset_index()
    shown = {
        "network": table["network"].map(network_label),
        "delays are": table["convention"].map(law_label),
        "units per stage": table["group_size"],
        "stages": table["stages"],
        "derived delays (updates)": table["delays"],
        "proofs that hold": [f"{true} of {n}" for true, n in zip(table["sum"], table["size"], strict=True)],
    }
    return pd.DataFrame(shown, dtype=object)


def proof_counts(theory: Theory) -> pd.DataFrame:
    """What is proven for LayerPipe2's delays, and in how many derivations of either convention it holds."""
    rows = []
    for claim, mine in theory.proofs.groupby("claim", sort=False):
        own = mine[mine["convention"] == "layerpipe2"]
        deepest = own.loc[own["stages"].idxmax()]
        counts = [_counted(mine[mine["convention"] == name]) for name in ("layerpipe2", "pipedream")]
        example = f"{network_label(deepest['network'])}, {deepest['stages']} stages"
        rows.append((claim, deepest["statement"], *counts, f"{example}: {deepest['evidence']}"))
    columns = ["proof", "statement (LayerPipe2, 2S)", "holds", "holds for PipeDream's S", "computed, for example"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _counted(proofs: pd.DataFrame) -> str:
    return f"{proofs['holds'].sum()} of {len(proofs)}"


def partitions(theory: Theory) -> pd.DataFrame:
    """Modelled costs of every group size."""
    table = theory.partitions
    shown = {
        "network": table["network"].map(network_label),
        "units per stage": table["group_size"],
        "stages": table["stages"],
        "MB over boundaries": _megabytes(table["communication"]),
        "work of slowest stage (%)": (100 * table["share"]).map("{:.1f}".format),
        "balance": table["balance"].map("{:.2f}".format),
        "activations (MB)": _megabytes(table["activations"]),
        "stash (MB)": _megabytes(table["history_stash"]),
        "average (MB)": _megabytes(table["history_ema"]),
        "on the Pareto front": table["efficient"].map({True: "yes", False: "no"}),
    }
    return pd.DataFrame(shown, dtype=object)


def _megabytes(sizes: pd.Series) -> pd.Series:
    return (sizes / 1e6).map(lambda size: f"{size:.0f}" if size >= 100 else f"{size:.3g}")


def speeds(theory: Theory) -> pd.DataFrame:
    """Speed over PipeDream: networks and schedules down, processors across; a dash where it can't use the network."""
    table = theory.schedules
    order = [name for name in SCHEDULES if name != "pipedream"]
    wide = table.pivot_table(index=["network", "schedule"], columns="processors", values="speed", sort=False)
    wide = wide.loc[[(n, s) for n in dict.fromkeys(table["network"]) for s in order if (n, s) in wide.index]]
    shown = wide.map(number(2)).reset_index()
    shown["network"] = [REFERENCE[name].label for name in shown["network"]]
    shown["schedule"] = [SCHEDULES[name].label for name in shown["schedule"]]
    return shown.rename(columns=lambda name: f"P={name}" if isinstance(name, int) else str(name))


def schedule_means(theory: Theory) -> pd.DataFrame:
    """Every schedule over all networks and numbers of processors: speed over PipeDream, utilisation, bytes."""
    rows = []
    base = theory.schedules[theory.schedules["schedule"] == "pipedream"].set_index(["network", "processors"])
    simulated = set(theory.schedules["schedule"])
    for name in (name for name in SCHEDULES if name in simulated):
        mine = theory.schedules[theory.schedules["schedule"] == name].set_index(["network", "processors"])
        sent = mine["megabytes"] / base["megabytes"].reindex(mine.index)
        speed = mine["speed"]
        rows.append(
            {
                "schedule": SCHEDULES[name].label,
                "cases": len(mine),
                "speed over PipeDream, mean": f"{speed.mean():.2f}",
                "least": f"{speed.min():.2f}",
                "most": f"{speed.max():.2f}",
                "utilisation, mean (%)": f"{100 * mine['utilisation'].mean():.0f}",
                "bytes over PipeDream's, mean": f"{sent.mean():.2f}",
            }
        )
    return pd.DataFrame(rows, dtype=object)


def devices(theory: Theory) -> pd.DataFrame:
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
