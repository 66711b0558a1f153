"""What predicts that a history is needed, against cases made by hand; the rule of thumb against the records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerpipe2.lab.judging.designs import PIPELINE
from paper_figures.accuracy import why
from paper_figures.accuracy.evidence import assay
from paper_figures.accuracy.why import strategy_of
from paper_figures.records import Records
from tests.synthetic_records import EXPERIMENT, made_records, made_runs, whole

RESULTS = Path(__file__).parents[2] / "results"
SEEN = RESULTS / "evidence" / "screen-mlp"


def cells(**columns: list[float]) -> pd.DataFrame:
    """Six screened cells, of which the first three need a history."""
    needs = [True, True, True, False, False, False]
    cost = [30.0, 20.0, 3.0, 0.5, 0.2, -1.0]
    table = pd.DataFrame({"needs": needs, "cost": cost, "share": [0.9, 0.8, 0.7, 5.0, -4.0, 1.0], "screened": True})
    return table.assign(rate="tuned", **columns)


def test_a_threshold_lies_midway_between_the_classes_on_either_side() -> None:
    needs = cells()["needs"]
    assert why.cut([9, 8, 7, 3, 2, 1], needs) == why.Cut(1.0, True, 5.0, 1.0)
    assert why.cut([1, 2, 3, 7, 8, np.nan], needs) == why.Cut(1.0, False, 5.0, 1.0)
    # Two thresholds are right in 5 of 6 cells; that one is taken which keeps the history more often.
    careful = why.cut([5, 4, 2, 3, 1, 0], needs)
    assert careful is not None
    assert (careful.threshold, careful.balanced) == (1.5, pytest.approx(5 / 6))
    mirrored = why.cut([0, 1, 3, 2, 4, 5], needs)
    assert mirrored is not None
    assert (mirrored.threshold, mirrored.above) == (3.5, False)
    assert why.cut([1, 1, 1, 1, 1, 1], needs) is None
    assert why.cut([1, 2, 3, np.nan, np.nan, np.nan], needs) is None


def test_the_rule_is_made_on_screened_cells_of_what_is_measured_in_all_of_them() -> None:
    made = cells(
        lr=[9, 8, 7, 3, 2, 1],
        step=[9, 8, 7, 3, 2, np.nan],
        drift=[3, 2, 5, 4, 1, 0],
        **{"gradient_error.latest.worst": [9, 8, 3.5, 3.6, 2, 1]},
    )
    rule = why.fit(made)
    assert rule is not None
    assert (rule.quantity, rule.drop_above, rule.cells) == ("gradient_error.latest.worst", False, 6)
    assert rule.meaning.endswith("the relative error of the gradient of the latest weights in the worst stage")
    assert rule.threshold == 2.75
    confirmed = made.assign(screened=False, step=[1, 2, 3, 7, 8, 9])
    assert why.fit(pd.concat([made, confirmed], ignore_index=True)) == rule
    assert why.fit(made[made["needs"]]) is None
    assert why.fit(pd.DataFrame()) is None


def test_the_rule_is_tried_on_cells_that_did_not_make_it() -> None:
    made = cells(drift=[9, 8, 7, 3, 2, 1])
    new = cells(drift=[9, 1, np.nan, 3, 9, 1]).assign(screened=False, rate="common")
    both = pd.concat([made, new], ignore_index=True)
    rule = why.fit(both)
    assert rule is not None
    assert why.says(new, rule).tolist() == ["keep", "drop", "unknown", "drop", "keep", "drop"]
    assert why.right(new, why.says(new, rule)) == (3, 6)
    assert why.dropped(new, why.says(new, rule)) == (1, 3)
    assert why.right(made, why.says(made, rule)) == (6, 6)
    assert why.right(made, why.says_of_others(made)) == (6, 6)


def test_a_cell_at_the_end_of_its_class_is_missed_by_the_rule_of_the_others() -> None:
    near = cells(drift=[9, 8, 4, 2.5, 2, 1])
    assert why.right(near, why.says_of_others(near)) == (5, 6)
    alike = near[near["needs"]]
    assert set(why.says_of_others(alike)) == {"unknown"}  # the others make no rule


def made_experiment(**accuracies: list[float | None]) -> Records:
    stash = {"stash": [0.85, 0.86]}
    alone = whole(made_runs({"sequential": [0.88, 0.88]})).assign(num_stages=1, group_size=9, convention="none")
    made = made_records(made_runs(stash | accuracies))
    return replace(made, runs=pd.concat([made.runs, alone], ignore_index=True), experiment=EXPERIMENT)


def measured(**columns: object) -> pd.DataFrame:
    cell = {"network": "mlp", "dataset": "digits", "optimizer": "sgd", "momentum": 0.9, "num_stages": 9}
    row = cell | {"convention": "layerpipe2", "rate": "tuned", "lr": 0.1, "diverged": 0, "margin": 7.0}
    return pd.DataFrame([row | columns])


def test_costs_are_in_margins_and_joined_with_what_was_measured_at_the_rate_of_stash() -> None:
    found = made_experiment(latest=[0.79, 0.80], **{"ema-span": [0.82, 0.83]})
    common = found.runs[found.runs["strategy"] == "latest"].assign(rate="common", test_accuracy=0.85)
    both = replace(found, common=common)
    table = why.of_cells({"screen-made": assay(both)}, {"screen-made": measured()})
    assert dict(zip(table["rate"], table["cost"], strict=True)) == pytest.approx({"tuned": 3.0, "common": 0.25})
    assert table["needs"].tolist() == [True, False]
    assert table["share"].tolist()[0] == pytest.approx(0.5)
    assert table["margin"].tolist() == [7.0, 7.0]
    assert table["screened"].all()
    confirmed = why.of_cells({"evidence-made": assay(both)}, {"evidence-made": measured()})
    assert confirmed["screened"].tolist() == [False] * len(confirmed)
    assert "common" not in set(confirmed["rate"]), "two seeds show neither that a history matters nor that it doesn't"


def test_cells_that_do_not_train_or_were_not_measured_are_left_out() -> None:
    found = {"screen-made": assay(made_experiment(latest=[0.79, 0.80]))}
    assert len(why.of_cells(found, {"screen-made": measured()})) == 1
    assert why.of_cells(found, {}).empty
    assert why.of_cells(found, {"screen-made": measured(diverged=1)}).empty
    assert why.of_cells(found, {"screen-made": measured(num_stages=5)}).empty
    untrained = assay(made_experiment(latest=[0.2, 0.2], stash=[0.3, 0.3]))
    assert why.of_cells({"a": untrained}, {"a": measured()}).empty


def test_everything_that_is_measured_has_words() -> None:
    seen = pd.read_csv(SEEN / "predictors.csv")
    names = [name for name in seen if name not in (*PIPELINE, "lr", "diverged")]
    assert len({why.meaning(name) for name in names}) == len(names) > 20


def test_a_quantity_names_the_strategy_that_it_is_about() -> None:
    named = ("alignment.ema-0.9.worst", "error.pair", "drift.worst", "margin")
    assert [strategy_of(name) for name in named] == ["ema-0.9", "pair", "latest", "latest"]
