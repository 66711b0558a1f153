"""The regime map on the page, from tables made by hand: winners, predictions, figure, and what cannot be read."""

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures.pipelines.regimes import load
from tests.paper_figures.made_map import write


def test_a_map_that_was_broken_off_is_none_and_a_broken_one_is_a_line(tmp_path):
    folder = write(tmp_path)
    (folder / "measured.csv").unlink()
    assert load(folder) is None
    table = "predicted.csv"
    broken = {
        "alone": lambda rows: rows.iloc[1:],
        "columns": lambda rows: rows.drop(columns="batches"),
        "missing": lambda rows: rows[rows["variant"] != "plain"],
        "positive": lambda rows: rows.assign(seconds=0.0),
    }
    for word, change in broken.items():
        write(tmp_path)
        for name in (table, "measured.csv") if word in ("missing", "positive") else (table,):
            change(pd.read_csv(folder / name)).to_csv(folder / name, index=False)
        with pytest.raises(
            UserError, match=rf"the map in .* cannot be read \(ValueError: .*{word}.*\); measure again: "
        ):
            load(folder)
