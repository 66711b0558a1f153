"""The regime map on the page, from tables made by hand: winners, predictions, figure, and what cannot be read."""

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures.pipelines.regimes import draw, error_table, load, rule_table
from tests.paper_figures import made_pipelines as made
from tests.paper_figures.made_map import write
from tests.paper_figures.made_pipelines import page_text, verdicts


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


def test_verdicts_count_points_and_name_errors(tmp_path):
    write(tmp_path / "pipelines", busy_cores=3.0)
    records = made.written(tmp_path)
    found = verdicts(records)
    ours = found["Asynchronous pipelines against one process, threads, DDP and 1F1B"]
    assert ours.word == "faster at so many of 2 points: one host 0, 0.1 Gbit/s 1"
    assert "0.1 Gbit/s: asynchronous 1 and data parallel 1" in ours.evidence[0]
    # One process of two threads beats ours by 10 : 11 and 15 : 16; over the slow link ours has 20 : 12 and 25 : 100.
    assert "one host 0.92× (0.91–0.94); 0.1 Gbit/s 0.96× (0.25–1.67)" in ours.evidence[0]
    guess = found["Predicted fastest choice"]
    right = "right at 3 of 4 points and places, within 5 % at 3"
    assert guess.word == f"{right}; a wrong choice takes 1.10× on average and 1.10× at most as long as the fastest"
    assert "as predicted 1.02× on average and 1.10× at most" in guess.evidence[0]
    # Over the slow link 2500 ms of data parallel training are against our 12, and 100 of ours against its 25.
    assert "always data parallel, DDP 54.13× on average and 208.33× at most" in guess.evidence[0]
    assert "always LayerPipe2, stash 1.79× on average and 4.00× at most" in guess.evidence[0]
    assert "it is right at 2 of 2 points and places, within 5 % at 2, with 1.00× on average and" in guess.evidence[0]
    # On one host threads win, over the slow link data parallel training wins once, and one process loses least.
    rule = "(one host: always plain, 2 threads; 0.1 Gbit/s: always plain), is right at 2 of 4 points and places"
    assert rule in guess.evidence[0]
    assert "wrong in 1 of 4 choices whose predicted lead is more than 5 %." in guess.evidence[0]
    assert "Of 12 measured times" in guess.evidence[0]  # one process is the same at all places
    text = page_text(records)
    assert "**2.00×**" in text
    assert "**Busy machine.** Other work kept 3.0 cores busy" in text
    assert text.index("## Which one is fastest") < text.index("## Speed")


def test_tables_show_errors_by_place(tmp_path):
    table = error_table(load(write(tmp_path))).set_index("measured over predicted time, less one")
    assert table.loc["data parallel, DDP", "0.1 Gbit/s"] == "+0 % (-4 % to +4 %)"
    assert table.loc["LayerPipe2, stash", "one host"] == "+2 % (-6 % to +10 %)"
    assert table.loc["plain, 2 threads", "0.1 Gbit/s"] == "–"
    marks = [[line.get_marker() for line in axis.get_lines()] for axis in draw(load(tmp_path / "map")).axes]
    assert marks == [["P", "P"], ["o", "s"]]  # of the fastest choices


def test_rules_are_compared_at_all_points_and_at_those_held_out(tmp_path):
    table = rule_table(load(write(tmp_path))).set_index("choice")
    assert list(table.columns) == ["one host", "0.1 Gbit/s", "everywhere", "held out", "at most"]
    guess = ["1/2, 1.05×", "2/2, 1.00×", "3/4, 1.02×", "2/2, 1.00×", "1.10×"]
    assert list(table.loc["the predicted fastest"]) == guess
    ours = ["0/2, 1.08×", "1/2, 2.50×", "1/4, 1.79×", "0/2, 2.53×", "4.00×"]
    assert list(table.loc["always LayerPipe2, stash"]) == ours
    # Of two hosts one process takes the place of the threads.
    assert list(table.loc["always plain, 2 threads"])[2:] == ["2/4, 1.22×", "1/2, 1.10×", "1.67×"]
    assert list(table.loc["the best rule of each place, known afterwards"])[2] == "2/4, 1.22×"


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
