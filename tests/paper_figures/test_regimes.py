"""The regime map on the page, from tables made by hand: winners, predictions, figure, and what cannot be read."""

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures.pipelines.regimes import load
from tests.paper_figures.made_map import write


def test_winners_are_those_of_the_medians_and_decided_in_every_round(tmp_path):
    found = load(write(tmp_path))
    assert found.places == ["one host", "0.1 Gbit/s"]
    rows = {(row.network, row.place): row for row in found.winners().itertuples()}
    one, far = rows["mlp", "one host"], rows["mlp", "0.1 Gbit/s"]
    assert (one.fastest, one.decided, one.foretold) == ("threads/2", False, "async/stash")  # the third round's is ours
    assert one.loss == pytest.approx(0.1)
    assert one.speed == pytest.approx(2)
    assert (far.fastest, far.decided, far.foretold, far.loss) == ("async/stash", True, "async/stash", 0)
    assert far.speed == pytest.approx(20 / 12)  # over one process, which needs no link
    assert [rows["even", place].fastest for place in found.places] == ["threads/2", "ddp"]
    assert rows["even", "one host"].decided
    assert [found.bandwidth(place) for place in found.places] == [2e9, 12e6]
    assert [found.neighbours_bandwidth(place) for place in found.places] == [4e9, 12e6]


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
