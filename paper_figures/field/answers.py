"""What follows: which mitigation to use, and whether all collapse without a stash."""

from collections.abc import Mapping

import pandas as pd

from experiments.field.rows import ROWS
from layerpipe2.lab.judging.designs import LATEST, SEQUENTIAL, STASH
from paper_figures.field.page import (
    CELL,
    SETUPS,
    bootstrapped,
    field,
    gains,
    label,
    least_gain,
    loses,
    setup_of,
    with_rows,
)
from paper_figures.records import Records
from paper_figures.text import listed, network_label, span
from paper_figures.verdicts import Answer, Verdict, everywhere

_CHANCE, _COLLAPSE = 0.1, 0.5
_ROTATED = SETUPS["rotated"]
_NAMED = 3
"""So many rows are named where more are shown."""


@field.value
def advice(final: pd.DataFrame, parts: pd.DataFrame) -> list[str]:
    """A line per optimizer: of the rows shown to gain over stash in all cells, that with the largest least gain.

    Both costs of the law 2S end it.
    """
    lines = []
    for setup, mine in final.groupby("setup", sort=False):
        cells = mine.groupby(CELL[::2]).ngroups
        rows = {
            name: own
            for name, own in mine.groupby("row")
            if name not in (STASH, "paci") and len(own) == cells and gains(own).all()
        }
        if mine["row"].nunique() < 5:
            continue
        found = _best(rows, cells) if rows else f"no row is shown to gain over exact stashing in every cell ({cells})."
        said = [f"{setup}: {found}", "" if rows else _in_some(mine), _costs(parts[parts["setup"] == setup])]
        lines.append(" ".join(filter(None, said)))
    return lines[:5]


def _best(rows: Mapping[str, pd.DataFrame], cells: int) -> str:
    """Of the rows that gain in every cell that with the largest least gain, the others, and which keeps least."""
    best = max(rows, key=lambda name: float(rows[name]["gain"].min()))
    least = min(rows, key=lambda name: (float(rows[name]["copies"].max()), name))
    points, copies, cost = (span(rows[best][name], lambda v: f"{v:.1f}") for name in ("gain", "copies", "cost"))
    text = f"{label(best)} gains {points} points over exact stashing in {cells} cells, with {copies} copies; still "
    text += f"{cost} points under sequential training."
    others = [label(name) for name in rows if name != best]
    text += f" Also shown: {listed(others)}." if others else ""
    return text + (f" Fewest copies: {label(least)}." if least != best else "")


def _costs(parts: pd.DataFrame) -> str:
    """``Law 2S: the delay costs MLP 6.3 and CNN (small) 0.7 points, no history another ...``; empty without runs."""
    mine = parts[parts["law"] == "2S"]
    delay, rest = (
        listed([f"{network_label(r.network)} {r.points:.1f}" for r in mine[mine["part"] == part].itertuples()])
        for part in ("delay", "inconsistency")
    )
    return f"Law 2S: the delay costs {delay} points, no history another {rest}." if len(mine) else ""


def _in_some(mine: pd.DataFrame) -> str:
    """The rows that are shown to gain most in a cell, with their gains, and how many more do."""
    said = []
    for (law, network), own in mine.groupby(["law", "network"], sort=False):
        rows = own[gains(own)].assign(points=least_gain).sort_values("points")[::-1]
        best = listed([f"{label(r.row)} {r.points:.1f}" for r in rows[:_NAMED].itertuples()])
        more = f" ({len(rows) - _NAMED} more)" if len(rows) > _NAMED else ""
        said += [f"{network_label(network)}, law {law}: {best} points{more}."] if len(rows) else []
    return " ".join(said)


@field.value
def overall(final: pd.DataFrame) -> list[str]:
    """The rows that are most often shown to gain rather than to lose, of those run in half of the cells, best first."""
    rows = final[~final["row"].isin([STASH, "paci"])]
    signs = rows.assign(gains=gains, loses=loses)
    counts = signs.groupby("row").agg(cells=("gains", "size"), gains=("gains", "sum"), loses=("loses", "sum"))
    counts = counts[(2 * counts["cells"] >= counts["cells"].max()) & (counts["gains"] > counts["loses"])]
    best = counts.assign(balance=counts["gains"] - counts["loses"]).sort_values("balance", ascending=False)[:_NAMED]
    return [
        f"{label(str(r.Index))} gains in {r.gains} of {r.cells} cells, loses in {r.loses}" for r in best.itertuples()
    ]


@field.value
def check_note(final: pd.DataFrame) -> str:
    """What exact stashing reaches at the rows' rate where a check was made; empty without one."""
    checked = final[(final["row"] == STASH) & final["check"].notna()]
    said = [
        f"{r.setup}, {network_label(r.network)}, law {r.law}: exact stashing at the rate of most rows is "
        f"{-r.check:.1f} points above exact stashing at the rate that its own search chose"
        for r in checked.itertuples()
    ]
    return "; ".join(said)


@field.value
def highest(found: dict[str, Records]) -> list[str]:
    """A line per network, law 2S: the optimizer with the best row, and by how much that of the next one is worse."""
    tables = [
        with_rows(records.runs).assign(setup=setup)
        for name, records in found.items()
        for law, setup in [setup_of(name)]
        if law == "2S" and "per update" not in setup
    ]
    if len(tables) < 2:
        return []
    runs = pd.concat(tables)
    runs = runs[runs["row"] != SEQUENTIAL]
    return [_highest(network, mine) for network, mine in runs.groupby("network", sort=False)]


def _highest(network: str, runs: pd.DataFrame) -> str:
    scores = 100 * runs.pivot_table(index="seed", columns=["setup", "row"], values="test_accuracy", dropna=False)
    means = scores.dropna(axis=1).mean().sort_values(ascending=False)  # of rows that diverged with no seed
    (setup, row), (other, its) = means.index[~means.index.get_level_values("setup").duplicated()][:2]
    low, high = bootstrapped((scores[setup, row] - scores[other, its]).to_numpy())
    said = (
        f"{network_label(network)}: highest with {setup}, {label(row)}, {means[setup, row]:.1f} %; the next optimizer"
    )
    said += f" is {other} with"
    said += f" {label(its)}, {means[setup, row] - means[other, its]:.1f} points less [{low:.1f}, {high:.1f}]"
    return f"{said}. With the latest weights and no copy {setup} reaches {means[setup, LATEST]:.1f} %."


@field.value
def stashless(found: dict[str, Records]) -> pd.DataFrame:
    """Per cell, the share of stash's gain over guessing that the latest weights keep; a diverged run keeps nothing."""
    rows = []
    for name, records in found.items():
        runs = with_rows(records.runs)
        for network, mine in runs.groupby("network", sort=False):
            lost = mine["status"] == "diverged"
            over = (mine["test_accuracy"] - _CHANCE).mask(lost, 0.0).groupby(mine["row"]).mean()
            if {LATEST, STASH} <= set(over.index) and over[STASH] > 0:
                cell = dict(zip(CELL, (*setup_of(name), network), strict=True))
                count = int((mine["row"] == LATEST).sum())
                diverged = int((lost & (mine["row"] == LATEST)).sum())
                rows.append(cell | {"kept": over[LATEST] / over[STASH], "n": count, "diverged": diverged})
    return pd.DataFrame(rows, columns=[*CELL, "kept", "n", "diverged"])


field.table("stashless", shown=None)(lambda stashless: stashless)


def _least_kept(what: str, cells: pd.DataFrame) -> str:
    worst = cells.loc[cells["kept"].idxmin()]
    where = f"{worst['setup']}, law {worst['law']}, {network_label(worst['network'])}"
    kept = span(cells["kept"], lambda share: f"{100 * share:.0f}")
    return f"{what}: {kept} % kept, least in {where}; {cells['diverged'].sum()} of {cells['n'].sum()} runs diverged."


@field.claim()
def collapse(stashless: pd.DataFrame) -> Verdict:
    """Basis rotation's claim, in this study's terms.

    An optimizer collapses in a cell if the latest weights keep less than half of what stash gains over guessing.
    """
    others, rotated = stashless[stashless["setup"] != _ROTATED], stashless[stashless["setup"] == _ROTATED]
    fallen = others["kept"] < _COLLAPSE
    said = [f"{int(fallen.sum())} of {len(others)} cells of other optimizers collapse."]
    said += [_least_kept(what, cells) for what, cells in (("Others", others), ("Rotation", rotated)) if len(cells)]
    question = f"Without the stash all others collapse, and basis rotation ({ROWS['rotation'].source}) doesn't"
    if not len(others):
        return Verdict(question=question, evidence=("Nothing is measured yet.",))
    answer = everywhere(fallen)
    if answer is Answer.YES and (rotated.empty or (rotated["kept"] < _COLLAPSE).any()):
        answer = Answer.IN_PART
    share = f"{100 * _COLLAPSE:.0f} %"
    test = f"the latest weights keep less than {share} of what stash gains over guessing; a diverged run keeps nothing"
    caveat = "their networks are larger" + ("; rotation itself is not run yet" if rotated.empty else "")
    return Verdict(question=question, answer=answer, test=test, evidence=tuple(said), caveat=caveat, n=len(others))
