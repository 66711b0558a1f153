"""How far strategies are behind stash after the first epoch, on made-up records."""

from dataclasses import replace

import pytest

from paper_figures.tables.early import behind_stash, early
from tests import synthetic_records


def test_runs_are_paired_with_stash_by_seed_in_the_first_and_the_last_epoch() -> None:
    records = synthetic_records.records(units={"mlp": 9}, groups=(1,))
    gaps = behind_stash(records)
    assert set(gaps["cell"]) == {"MLP, digits, momentum 0.9, 9 stages"}
    one = gaps[(gaps["strategy"] == "ema-window") & (gaps["seed"] == 1)].iloc[0]
    epochs = records.epochs[records.epochs["seed"] == 1].set_index(["strategy", "epoch"])["val_accuracy"]
    for name, epoch in (("first", 0), ("last", 5)):
        assert one[name] == pytest.approx(100 * (epochs["ema-window", epoch] - epochs["stash", epoch]))
    assert "latest" not in set(gaps["strategy"])  # all its runs diverged
    assert set(gaps.loc[gaps["strategy"] == "ema-span", "seed"]) == {0, 1}  # one is missing


def test_the_table_has_means_and_runs_of_one_epoch_are_not_in_it() -> None:
    records = synthetic_records.records(units={"mlp": 9}, groups=(1,))
    gaps = behind_stash(records)
    first, last = gaps.loc[gaps["strategy"] == "ema-lsq", ["first", "last"]].mean()
    short = replace(records, epochs=records.epochs[records.epochs["epoch"] == 0])
    table = early([records, short])
    assert table is not None
    found = table.set_index("strategy")["MLP, digits, momentum 0.9, 9 stages"]
    assert found["EMA lsq"] == f"{first:+.1f} → {last:+.1f}"
    assert early([short]) is None
