"""The table of what predicts, before a training, that a weight history is needed."""

import pandas as pd

from paper_figures.claims.why import meaning
from paper_figures.text import number


def predictors(table: pd.DataFrame) -> pd.DataFrame:
    """A row per quantity for readers, from :func:`paper_figures.claims.why.ranking`."""
    rows = [
        {
            "measured over 100 updates": f"{meaning(row['quantity'])} (`{row['quantity']}`)",
            "cells": row["n"],
            "area under ROC": number(2)(row["auc"]),
            "a history is needed": f"{'from' if row['above'] else 'below'} {row['threshold']:.4g}",
            "balanced accuracy": number(2)(row["balanced"]),
            "rank correlation with the cost": _signed(row["rho_cost"]),
            "with the share won back": f"{_signed(row['rho_share'])} (n={row['n_share']})",
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object)


def _signed(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:+.2f}"
