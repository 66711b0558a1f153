"""Tables of the theory: proofs, costs of partitions, simulated schedules; from data frames to text for readers."""

import pandas as pd

from layerpipe2.lab.reference import REFERENCE
from layerpipe2.planning.schedules import SCHEDULES
from layerpipe2.planning.spikepipe.networks import LABELS
from paper_figures.records.theory import Theory
from paper_figures.tables import for_readers
from paper_figures.text import Format, law_label, network_label, number


def proofs(theory: Theory) -> pd.DataFrame:
    """Derivations by network, delay law and group size: stages, delays, and how many of the proofs hold."""
    keys = ["network", "convention", "group_size", "stages", "delays"]
    table = theory.proofs.groupby(keys, sort=False)["holds"].agg(["sum", "size"]).reset_index()
    counts = [f"{true} of {n}" for true, n in zip(table["sum"], table["size"], strict=True)]
    names: dict[str, tuple[str, Format]] = {
        "convention": ("delays are", law_label),
        "delays": ("derived delays (updates)", str),
    }
    return for_readers(table[keys].assign(proofs_that_hold=counts), names)


def proof_counts(theory: Theory) -> pd.DataFrame:
    """What is proven for LayerPipe2's delays, and in how many derivations of either delay law it holds."""
    rows = []
    for claim, mine in theory.proofs.groupby("claim", sort=False):
        own = mine[mine["convention"] == "layerpipe2"]
        deepest = own.loc[own["stages"].idxmax()]
        held = [mine.loc[mine["convention"] == name, "holds"] for name in ("layerpipe2", "pipedream")]
        counts = [f"{holds.sum()} of {len(holds)}" for holds in held]
        example = f"{network_label(deepest['network'])}, {deepest['stages']} stages"
        rows.append((claim, deepest["statement"], *counts, f"{example}: {deepest['evidence']}"))
    columns = ["proof", "statement (LayerPipe2, 2S)", "holds", "holds for PipeDream's S", "computed, for example"]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def partitions(theory: Theory) -> pd.DataFrame:
    """Modelled costs of every group size."""
    names: dict[str, tuple[str, Format]] = {
        "communication": ("MB over boundaries", _megabytes),
        "share": ("work of slowest stage (%)", lambda share: f"{100 * share:.1f}"),
        "balance": ("balance", number(2)),
        "activations": ("activations (MB)", _megabytes),
        "history_stash": ("stash (MB)", _megabytes),
        "history_ema": ("average (MB)", _megabytes),
        "efficient": ("on the Pareto front", lambda efficient: "yes" if efficient else "no"),
    }
    return for_readers(theory.partitions[["network", "group_size", "stages", *names]], names)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f}" if size >= 1e8 else f"{size / 1e6:.3g}"


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
    cases = dict(list(theory.schedules.set_index(["network", "processors"]).groupby("schedule")))
    for name in (name for name in SCHEDULES if name in cases):
        sent = cases[name]["megabytes"] / cases["pipedream"]["megabytes"].reindex(cases[name].index)
        speed, used = cases[name]["speed"], 100 * cases[name]["utilisation"].mean()
        means = [f"{value:.2f}" for value in (speed.mean(), speed.min(), speed.max())]
        rows.append((SCHEDULES[name].label, len(speed), *means, f"{used:.0f}", f"{sent.mean():.2f}"))
    columns = ["schedule", "cases", "speed over PipeDream, mean", "least", "most", "utilisation, mean (%)"]
    return pd.DataFrame(rows, columns=[*columns, "bytes over PipeDream's, mean"], dtype=object)


def spikepipe(theory: Theory) -> pd.DataFrame:
    """Speed over standard pipelining, utilisation and communication: cases down, processors across."""
    rows = []
    keys = ["array", "network", "placement", "steps"]
    for (array, network, placement, steps), mine in theory.spikepipe.groupby(keys, sort=False):
        row: dict[str, object] = {"array": f"{array} × {array}", "network": LABELS[network]}
        row |= {"placement": placement, "steps per task": str(steps)}
        for case in mine.itertuples():
            shares = f"{100 * case.utilisation:.0f} %, {100 * case.communication:.1f} %"
            row[f"P={case.processors}"] = f"{case.speed:.2f} ({shares})"
        rows.append(row)
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
