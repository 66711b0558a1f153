"""Sections on causes: paired differences, counts and areas, from made-up runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paper_figures.accuracy.plateau import agreeing, areas, compared, plateau
from paper_figures.accuracy.recalled import swept
from paper_figures.accuracy.start import counted, started_said
from tests.synthetic_records import EXPERIMENT, made_records, made_runs

STASH = [0.80, 0.81, 0.82, 0.83]


def records(columns):
    return replace(made_records(made_runs(columns).assign(lr=0.1)), experiment=EXPERIMENT)


def test_a_share_is_better_if_its_gain_is_shown_and_a_divergence_counts_as_guessing():
    better, lost = [a + 0.01 for a in STASH], [0.80, 0.81, 0.82, None]
    table = swept(records({"stash": STASH, "mixed--0.5": better, "mixed-0.5": lost, "latest": lost}))
    found = table.set_index("share")
    assert list(found.index) == [-0.5, 0.0, 0.5, 1.0]
    assert found["better"].tolist() == [True, False, False, False]
    assert found.loc[-0.5, ["mean", "n", "diverged"]].tolist() == pytest.approx([1, 4, 0])
    assert found.loc[0.5, ["mean", "n", "diverged"]].tolist() == pytest.approx([(10 - 83) / 4, 4, 1])


def test_the_map_counts_runs_by_the_share_of_exact_updates():
    lost = [None, 0.8, 0.8, 0.8]
    columns = {"stash": STASH, "latest": lost, "latest-from-150": lost, "latest-from-600": STASH}
    table = counted(records(columns))
    assert [tuple(row) for row in table[["strategy", "share", "lost", "n"]].to_numpy()] == [
        ("latest", 0.0, 1, 4),
        ("latest", 0.1, 1, 4),
        ("latest", 0.4, 0, 4),
        ("stash", 1.0, 0, 4),
    ]
    assert started_said(table)[0].endswith("0 %: 1 of 4, 10 %: 1 of 4, 40 %: 0 of 4; none diverges from 40 % on.")


def test_areas_are_those_of_the_rank_test_and_weights_count_points():
    values, lost = pd.Series([1.0, 2.0, 2.0, 3.0, 5.0]), pd.Series([False, True, False, False, True])
    u = stats.mannwhitneyu(values[lost], values[~lost], method="asymptotic").statistic
    assert areas(values, lost)[0] == pytest.approx(u / 6)
    assert areas(values, lost, [[1, 1, 1, 1, 0]])[0] == pytest.approx(areas(values[:4], lost[:4])[0])


def test_a_quantity_that_tells_all_beats_a_rate_that_tells_nothing():
    random = np.random.default_rng(0)
    rows = []
    for cell, made in (("a", True), ("b", False), ("c", False)):
        for k in np.geomspace(0.1, 100, 8):
            names = {"latest": k > 2, "stash": k > 20}
            about = {"cell": cell, "peak_lr": random.uniform(), "k": k, "rate_delay": 1 + random.uniform(), "early": k}
            rows += [about | {"strategy": s, "lost": lost, "x": k, "made": made} for s, lost in names.items()]
    table = pd.DataFrame(rows)
    found = compared(table).set_index("quantity")
    assert found.loc["k", "tried"] > 0.9
    assert found.loc["k", "low"] > 0 >= found.loc["rate_delay", "low"]
    order = agreeing(table.assign(strategy=table["strategy"]).pipe(_with_averages)).iloc[0]
    assert order.tolist() == ["latest before stash", 6, 0]


def _with_averages(table):
    """The same, with averages that end as stash does."""
    stash = table[table["strategy"] == "stash"]
    return pd.concat([table, *(stash.assign(strategy=name) for name in ("ema-lsq", "ema-span"))])


def test_a_search_in_which_all_ended_alike_makes_no_threshold(tmp_path, monkeypatch):
    known = pd.DataFrame(
        {"cell": ["mnist1d mlp"] * 2, "peak_lr": [0.1, 0.2], "k": [1.0, 2.0], "rate_delay": [1.0, 2.0]}
    )
    ended = known[["cell", "peak_lr"]].assign(strategy="stash", lost=False)
    monkeypatch.setattr("paper_figures.accuracy.plateau.measured", lambda folder: known.assign(early=known["k"]))
    monkeypatch.setattr("paper_figures.accuracy.plateau.outcomes", lambda screens, searched: ended)
    (tmp_path / "tuning.csv").write_text("stages\n")
    assert plateau(tmp_path / "evidence", {"screen": None}) is None
    ended.loc[1, "lost"] = True
    assert len(plateau(tmp_path / "evidence", {"screen": None})) == 2
