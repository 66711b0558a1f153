"""The proofs of the derivations as tables."""

import pandas as pd

from paper_figures.page import report
from paper_figures.text import Format, for_readers, law_label, network_label
from paper_figures.theory import Theory


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


@report.value
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


report.table("proofs", shown=proofs)(lambda theory: theory.proofs)
