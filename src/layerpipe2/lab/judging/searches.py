"""What a search of learning rates has found: the mean result at every rate, and the rate that each study chose."""

import pandas as pd

STUDY = ["network", "strategy"]
"""What has a study of its own."""


def rate_means(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean result at every rate of a strategy's study, over the seeds; without the rates at which a run failed.

    ``spread`` is the standard deviation between the seeds (NaN of one), and ``edge`` says whether the rate lies at an
    end of the study's last range.

    Args:
        trials: a row per trial: network, strategy, round, trial, status, edge, lr, and val_accuracy or val_loss.
    """
    last = trials["round"] == trials.groupby(STUDY)["round"].transform("max")
    value = _value(trials)
    known = trials.assign(edge=trials["edge"].astype(bool) & last, failed=trials["status"] != "completed")
    points = known.sort_values(["round", "trial"]).groupby([*STUDY, "lr"], sort=False)
    found = {value: (value, "mean"), "spread": (value, "std"), "edge": ("edge", "any"), "failed": ("failed", "any")}
    means = points.agg(**found).reset_index()
    return means[~means["failed"]].drop(columns="failed")


def chosen_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The row of :func:`rate_means` that each study has chosen: the best, of equals the first."""
    means = rate_means(trials)
    value = _value(means)
    scores = means[value] if value == "val_accuracy" else -means[value]
    return means.loc[scores.groupby([means[name] for name in STUDY]).idxmax()]


def _value(table: pd.DataFrame) -> str:
    return "val_accuracy" if "val_accuracy" in table else "val_loss"
