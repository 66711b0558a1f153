"""The page of the evidence and the README's first screen, from made-up experiments."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures import build
from paper_figures.claims.evidence import by_what_is_told, decays_above_limit
from paper_figures.records import evidence
from paper_figures.tables.training import chosen_rates
from tests import synthetic_records
from tests.paper_figures.test_assay import Assay, made

_STRATEGIES = {"latest": [0.70, 0.72, 0.69], "ema-span": [0.849, 0.861, 0.842], "ema-window": [0.80, 0.81, 0.79]}


def _write(folder: Path, runs: pd.DataFrame, **description: object) -> None:
    """An experiment with these runs; its other tables hold little."""
    tables = synthetic_records.make(seeds=1, units={"mlp": 9}, groups=(1,))
    runs = runs.assign(diverged_epoch=None, test_loss=0.5, final_val_accuracy=0.8, lr=runs.get("lr", 0.1))
    synthetic_records.write(folder, tables | {"runs": runs})
    (folder / "experiment.json").write_text(json.dumps(synthetic_records.EXPERIMENT | description))
    runs[["strategy"]].assign(wall_time_s=36.0).to_csv(folder / "times.csv", index=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A confirmation with one rate beside the tuned ones, unfinished, and a search of two rates."""
    folder = tmp_path_factory.mktemp("results")
    stash = [0.85, 0.86, 0.84]
    report = {"equivalence_margin_points": 1.0, "significance_level": 0.05, "image_guard": False}
    tuned = made(_STRATEGIES | {"stash": stash}, sequential=[0.88, 0.88, 0.87])
    common = made(_STRATEGIES | {"latest": [None] * 3}).query("strategy != 'stash'").assign(rate="common")
    runs = pd.concat([tuned, common], ignore_index=True)
    _write(folder / "evidence" / "evidence-a" / "tables", runs, report=report, planned=30, finished=29)
    searched = [made(_STRATEGIES, sequential=[0.88]).assign(rate=f"sgd-{lr}", lr=lr) for lr in (0.1, 0.2)]
    _write(folder / "evidence" / "screen-a" / "tables", pd.concat(searched), report=report)
    synthetic_records.write(folder, synthetic_records.make())
    return folder


def test_the_page_says_what_the_cells_say(results: Path, tmp_path: Path) -> None:
    build.main(["page", "evidence", "--results", str(results), "--out", str(tmp_path)])
    text = (tmp_path / "evidence" / "evidence.md").read_text()
    assert "**So far yes: in the one cell** in which the weights of the backward pass matter (of 1 tried), an" in text
    assert "Confirmed cells that answer the question, yes or no: 1 of 1." in text
    assert "**Incomplete**: evidence-a has 29 of 30 runs" in text
    assert re.search(r"\| EMA window \| 6\d % \[\d+, \d+\]: worse \|", text)
    assert text.count("](figures/") == 3
    assert "Confirmed: 1 cell, 24 runs" in text
    assert "Screened: 2 cells, 30 runs" in text
    assert "3 runs diverged or ended hardly better" in text
    assert "nan" not in text.lower().split()
    found = json.loads((tmp_path / "evidence" / "verdicts.json").read_text())
    assert found["EMA span: no loss in any cell where it can be told?"] == "reproduced"
    assert found["EMA window: no loss in any cell where it can be told?"] == "not reproduced"


def test_the_name_of_an_experiment_gives_its_own_page(results: Path, tmp_path: Path) -> None:
    build.main(["page", "evidence-a", "--results", str(results), "--out", str(tmp_path)])
    text = (tmp_path / "experiments" / "evidence-a" / "evidence.md").read_text()
    assert "**So far yes: in the one cell**" in text
    assert "The search that came before" not in text
    assert not (tmp_path / "evidence").exists()


def test_what_is_not_published_is_no_part_of_the_evidence(results: Path, tmp_path: Path) -> None:
    _write(tmp_path / "evidence-b" / "tables", made(_STRATEGIES), published=False)
    assert evidence.load(tmp_path) == {}
    assert list(evidence.load(results / "evidence")) == ["evidence-a", "screen-a"]


def test_cells_that_tell_nothing_are_drawn_apart() -> None:
    costs = pd.DataFrame({"cell": ["a", "b", "c"], "sensitive": [True, False, False], "needless": [False, True, False]})
    told, silent = by_what_is_told(Assay(costs, costs))
    assert (list(told.rules["cell"]), list(silent.costs["cell"])) == (["a", "b"], ["c"])
    told, silent = by_what_is_told(silent)
    assert (list(told.costs["cell"]), len(silent.costs)) == (["c"], 0)


def test_the_decay_of_lsq_is_above_the_limit_at_the_delays_of_the_runs() -> None:
    records = synthetic_records.records(seeds=1, units={"mlp": 9}, groups=(2,))
    found = decays_above_limit({"a": records})
    assert list(found) == [2, 4, 6, 8]
    assert found[2] == pytest.approx(0.159, abs=5e-4)


def test_a_search_alone_confirms_nothing(results: Path, tmp_path: Path) -> None:
    _write(tmp_path / "evidence" / "screen-a" / "tables", made(_STRATEGIES))
    with pytest.raises(UserError, match="nothing is confirmed yet; run: make paper"):
        build.main(["page", "evidence", "--results", str(tmp_path), "--out", str(tmp_path)])


def test_hours_are_those_of_the_runs(results: Path) -> None:
    assert evidence.hours(results / "evidence", ["evidence-a", "screen-a"]) == pytest.approx(0.01 * (24 + 30))


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
