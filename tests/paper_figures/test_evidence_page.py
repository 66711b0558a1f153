"""The page of the evidence, and what it says of the first epoch, from made-up experiments."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures import build, style
from paper_figures.accuracy.assay import Assay
from paper_figures.accuracy.cells import failures
from paper_figures.accuracy.early import behind_stash, early
from paper_figures.accuracy.evidence import decays_above_limit, load, told
from paper_figures.accuracy.longer import fall
from paper_figures.accuracy.no_history import by_kind, no_history
from paper_figures.accuracy.tuning import chosen_rates
from tests import synthetic_records


def test_the_name_of_an_experiment_gives_its_own_page(results: Path, tmp_path: Path) -> None:
    name = "evidence-cnn-1f1b"
    build.main(["page", name, "--results", str(results), "--out", str(tmp_path)])
    texts = {path.stem: path.read_text() for path in (tmp_path / "experiments" / name).glob("*.md")}
    assert set(texts) == {"evidence", "cells", "strategies", "longer", "screening", "method"}
    assert "figures/screening.svg" not in texts["screening"]
    assert "(../../../../docs/scope.md#" in texts["strategies"]
    assert not (tmp_path / "evidence").exists()


def test_what_is_not_published_is_no_part_of_the_evidence_and_a_search_confirms_nothing(tmp_path: Path) -> None:
    for name, published in (("evidence-a", False), ("screen-a", True)):
        tables = synthetic_records.write(tmp_path / "evidence" / name / "tables", synthetic_records.make(seeds=1))
        (tables / "experiment.json").write_text(json.dumps(synthetic_records.EXPERIMENT | {"published": published}))
    assert list(load(tmp_path)["found"]) == ["screen-a"]
    with pytest.raises(UserError, match="nothing is confirmed yet; run: make paper"):
        build.main(["page", "evidence", "--results", str(tmp_path), "--out", str(tmp_path)])


def test_rows_of_the_field_are_not_judged_as_histories(tmp_path: Path) -> None:
    tables = synthetic_records.make(seeds=1)
    for table in tables.values():
        if "strategy" in table:
            table.loc[table["strategy"] == "ema-running", "strategy"] = "feedback"
    written = synthetic_records.write(tmp_path / "evidence" / "evidence-a" / "tables", tables)
    (written / "experiment.json").write_text(json.dumps(synthetic_records.EXPERIMENT | {"published": True}))
    records = load(tmp_path)["found"]["evidence-a"]
    assert "feedback" in set(tables["runs"]["strategy"])
    assert "feedback" not in {*records.runs["strategy"], *records.epochs["strategy"]}
    assert {"stash", "latest"} <= set(records.runs["strategy"])


def test_panels_are_of_cells_that_need_a_history_or_of_all_if_none_does() -> None:
    costs = pd.DataFrame({"cell": ["a", "b"], "sensitive": [True, False]})
    assert list(told(Assay(costs, costs)).rules["cell"]) == ["a"]
    none = Assay(costs, costs).within(cell="b")
    assert list(told(none).costs["cell"]) == ["b"]


def cells() -> pd.DataFrame:
    """Costs of a cell of each kind, and of a second one that needs no history."""
    return pd.DataFrame(
        {
            "cell": ["untrained", "silent", "spared", "needy", "nats"],
            "inconsistency": [0.0, 40.0, -0.2, 3.0, 0.01],
            "inconsistency_low": [-0.1, -40.0, -0.3, 2.0, 0.0],
            "inconsistency_high": [0.1, 120.0, -0.1, 4.0, 0.015],
            "delay": 5.0,
            "margin": [0.5, 0.5, 0.5, 0.5, 0.02],
            "unit": ["points"] * 4 + ["nats"],
            "delay_n": [5, 5, 5, 3, 5],
            "seeds": 5,
            "diverged_latest": [0, 2, 0, 0, 0],
            "sensitive": [False, False, False, True, False],
            "needless": [False, False, True, False, True],
            "trained": [False, True, True, True, True],
        }
    )


def test_every_cell_has_a_line_by_kind_and_by_cost_in_margins() -> None:
    table = by_kind(Assay(cells(), cells()))
    assert list(table["cell"]) == ["needy", "nats", "spared", "silent", "untrained"]
    assert list(table["kind"]) == ["needed", "not needed", "not needed", "can't tell", "hardly trained"]
    with style.context():
        figure = no_history(Assay(cells(), cells()), level=0.05)
    picture, words = figure.axes
    dots = [line for line in picture.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([6.0, 0.5, -0.4, 80.0, 0.0])
    assert [line.get_markerfacecolor() == "white" for line in dots] == [False, False, False, True, True]
    assert [line.get_marker() for line in picture.lines if line.get_marker() in "<>"] == ["<", ">"]
    said = [text.get_text() for text in words.texts]
    assert said[:4] == ["+3.00 points", "+5.00 (n=3)", "5", "needed"]
    assert said[12:16] == ["+40.00 points", "+5.00", "5", "can't tell, 2 diverged"]
    note = " ".join(figure.get_supxlabel().split())
    assert "0.5 points and 0.02 nats" in note
    assert note.endswith("Arrows: the line goes on.")


def test_failures_are_counted_where_there_are_any() -> None:
    costs = pd.DataFrame(
        {
            "cell": ["whole", "few", "many"],
            "rate": "tuned",
            "seeds": 8,
            "diverged_latest": [0, 1, 7],
            "diverged_stash": 0,
            "p_diverges": [1.0, 0.5, 1 / 128],
        }
    )
    assert failures(Assay(costs, costs), level=0.05) == [
        "few: 1 of 8 with the latest weights, 0 with stash; not shown (p = 0.5)",
        "many: 7 of 8 with the latest weights, 0 with stash; shown (p = 0.0078)",
    ]
    assert failures(None, level=0.05) == []


def test_the_decay_of_lsq_is_above_the_limit_at_the_delays_of_the_runs() -> None:
    records = synthetic_records.records(seeds=1, units={"mlp": 9}, groups=(2,))
    found = decays_above_limit({"a": records})
    assert list(found) == [2, 4, 6, 8]
    assert found[2] == pytest.approx(0.159, abs=5e-4)


def test_the_chosen_rates_have_a_column_per_network() -> None:
    names = ["network", "strategy", "round", "trial", "status", "val_accuracy", "edge", "lr"]
    rows = [
        ("mlp", "stash", 0, 0, "completed", 0.8, False, 0.1),
        ("mlp", "stash", 0, 1, "completed", 0.9, True, 0.2),
        ("mlp", "latest", 0, 0, "pruned", 0.95, False, 0.3),
        ("cnn", "stash", 0, 0, "completed", 0.7, False, 0.01),
    ]
    both = chosen_rates(pd.DataFrame(rows, columns=names), ["mlp", "cnn"])
    assert both.to_dict("list") == {"strategy": ["stash"], "MLP": ["0.2*"], "CNN": ["0.01"]}
    losses = chosen_rates(pd.DataFrame(rows[:3], columns=names).rename(columns={"val_accuracy": "val_loss"}), ["mlp"])
    assert losses.to_dict("list") == {"strategy": ["stash"], "MLP": ["0.1"]}


def test_a_rate_at_an_end_of_a_common_list_has_an_asterisk() -> None:
    tried = {"stash": {0.1: 0.9, 0.2: 0.8, 0.4: 0.7}, "latest": {0.1: 0.7, 0.2: 0.8, 0.4: 0.6}}
    rows = [
        {"network": "mlp", "strategy": name, "round": 0, "trial": trial, "status": "completed", "edge": False}
        | {"lr": lr, "val_accuracy": accuracy}
        for name, found in tried.items()
        for trial, (lr, accuracy) in enumerate(found.items())
    ]
    table = chosen_rates(pd.DataFrame(rows), ["mlp"]).set_index("strategy")["MLP"]
    assert table.to_dict() == {"stash": "0.1*", "latest": "0.2"}


def test_the_table_has_means_and_runs_of_one_epoch_are_not_in_it() -> None:
    records = synthetic_records.records(units={"mlp": 9}, groups=(1,))
    gaps = behind_stash(records)
    first, last = gaps.loc[gaps["strategy"] == "ema-lsq", ["first", "last"]].mean()
    short = replace(records, epochs=records.epochs[records.epochs["epoch"] == 0])
    table = early({"a": records, "b": short})
    assert table is not None
    found = table.set_index("cell").loc["MLP, digits, momentum 0.9, 9 stages"]
    assert found["EMA lsq"] == f"{first:+.1f} → {last:+.1f}"
    assert early({"b": short}) is None


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.5, 2.5, "25 % of before, shown to be below a third."),
        (1.0, 4.0, "25 % of before, not shown to be, nor not to be, below a third."),
        (5.0, 9.0, "25 % of before, shown not to be below a third."),
    ],
)
def test_a_cost_has_fallen_to_a_third_if_both_intervals_say_so(low, high, said):
    short = {"cell": "MLP", "epochs": 2, "delay": 10.0, "delay_low": 9.0, "delay_high": 12.0}
    long = {"epochs": 16, "delay": 2.5, "delay_low": low, "delay_high": high}
    assert fall(short, long, "delay") == f"MLP, 16 instead of 2 epochs: what the delay costs is {said}"
