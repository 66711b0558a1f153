"""Costs, shares won back and sensitivity, against cases made by hand and simulated ones."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import costs, scored
from layerpipe2.lab.judging.statistics import ratio, seeds_needed
from paper_figures.accuracy.assay import Assay, costs_table, in_place_of_a_verdict
from paper_figures.accuracy.evidence import answer, decided
from tests.synthetic_records import Accuracies, made_runs, whole

_LOSING: Accuracies = {"ema-span": [0.70, 0.72, 0.69, 0.71, 0.70], "ema-window": [0.70, 0.72, 0.69, 0.71, 0.70]}
_STASH = [0.85, 0.86, 0.84, 0.85, 0.86]
_LATEST = [0.80, 0.82, 0.79, 0.81, 0.80]
_RULE = [0.845, 0.853, 0.838, 0.846, 0.852]
_SETTINGS = ComparisonSettings(margin=1.0, image_guard=False)
_NATS = ComparisonSettings(0.02, 0.05, False, "nats", guess={"digits": 2.0})


def made(columns: Accuracies, sequential: list[float | None] | None = None, **columns_of_runs: object) -> pd.DataFrame:
    runs = whole(made_runs({"stash": list(_STASH), **columns}))
    if sequential is not None:
        alone = whole(made_runs({"sequential": sequential})).assign(num_stages=1, group_size=9, convention="none")
        runs = pd.concat([runs, alone], ignore_index=True)
    return runs.assign(**columns_of_runs)


def row(runs: pd.DataFrame, settings: ComparisonSettings = _SETTINGS) -> pd.Series:
    return costs(scored(runs, settings), settings).iloc[0]


def test_the_costs_are_paired_by_seed_with_students_interval() -> None:
    found = row(made({"latest": list(_LATEST)}, sequential=[0.88, 0.88, 0.87, 0.89, 0.88]))
    gap = 100 * (np.array(_STASH) - np.array(_LATEST))
    low, high = stats.t.interval(0.9, 4, gap.mean(), stats.sem(gap))
    assert found["inconsistency"] == pytest.approx(gap.mean())
    assert (found["inconsistency_low"], found["inconsistency_high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["delay"] == pytest.approx(np.mean([3, 2, 3, 4, 2]))
    assert found["p_sensitive"] == pytest.approx(stats.ttest_1samp(gap, 1.0, alternative="greater").pvalue)
    assert found["sensitive"]
    assert found["trained"]


def test_seeds_without_a_partner_are_left_out_of_their_cost_alone() -> None:
    found = row(made({"latest": _LATEST[:3]}, sequential=[0.88, 0.88]))
    assert (found["seeds"], found["delay_n"]) == (3, 2)
    assert found["reached"] == pytest.approx(100 * np.mean(_STASH[:3]))
    lost = row(made({"stash": [*_STASH[:3], None, None], "latest": _LATEST[:3]}))
    assert (lost["diverged_stash"], lost["reached"]) == (0, found["reached"])  # those without a partner don't count


def test_a_run_that_diverged_scores_what_guessing_does() -> None:
    found = row(made({"latest": [None] * 5}))
    assert found["inconsistency"] == pytest.approx(100 * np.mean(_STASH) - 10)
    assert (found["diverged_latest"], found["diverged_stash"], found["sensitive"]) == (5, 0, True)


def test_a_run_that_ends_hardly_above_guessing_has_diverged() -> None:
    runs = scored(made({"latest": [0.10, 0.119, 0.13, None, 0.8]}), _SETTINGS)
    status = runs[runs["strategy"] == "latest"]["status"].tolist()
    assert status == ["diverged", "diverged", "completed", "diverged", "completed"]
    found = [2.3, 2.0, 1.985, 1.975]  # guessing is 2 nats, and the margin 0.02
    losses = runs.assign(test_loss=found + [1.0] * (len(runs) - len(found)), status="completed")
    assert (scored(losses, _NATS)["status"] == "diverged").tolist()[:4] == [True, True, True, False]


def test_the_delay_is_paired_over_the_seeds_of_its_cell() -> None:
    found = row(made({"latest": _LATEST[:2]}, sequential=[0.88, 0.88, 0.87, 0.89, 0.88]))
    assert (found["delay_n"], found["delay"]) == (2, pytest.approx(2.5))


def test_divergences_of_the_control_count_once_there_are_enough() -> None:
    some = row(made({"latest": [None, 0.85, 0.84, None, 0.86]}))
    assert some["inconsistency_low"] < 0 < some["inconsistency"]  # they widen the interval
    assert not some["sensitive"]
    often = row(made({"stash": [0.85] * 9, "latest": [None, 0.85, None] * 3}))
    assert often["inconsistency"] == pytest.approx(75 * 6 / 9)
    assert often["sensitive"]


def test_no_history_is_needed_where_the_latest_weights_are_shown_to_lose_less_than_the_margin() -> None:
    runs = made({"latest": [accuracy - 0.001 * (seed % 3) for seed, accuracy in enumerate(_STASH)]})
    found = row(runs)
    gap = np.array([0.0, 0.1, 0.2, 0.0, 0.1])
    assert found["p_needless"] == pytest.approx(stats.ttest_1samp(gap, 1.0, alternative="less").pvalue)
    assert (found["needless"], found["sensitive"]) == (True, False)
    guarded = row(runs.assign(test_images=450), ComparisonSettings(1.0, 0.05, True))
    assert not guarded["needless"]  # 450 other images could move the difference by more than the margin
    lost = row(made({"latest": [*_STASH[:4], None]}))
    assert not lost["needless"]


def test_a_cell_without_a_verdict_says_why() -> None:
    cell = {"sensitive": False, "needless": False, "trained": True}
    words = [in_place_of_a_verdict(cell | change) for change in ({}, {"needless": True}, {"trained": False})]
    assert words == ["can't tell", "not needed", "hardly trained"]
    assert in_place_of_a_verdict(cell | {"sensitive": True}) == ""


def test_stash_trains_if_it_gains_half_of_what_sequential_training_gains_at_its_best_rate() -> None:
    slow = made({"stash": [0.4] * 5, "latest": list(_LATEST)}, sequential=[0.45] * 5).assign(rate="low")
    assert row(slow)["trained"]
    fast = made({}, sequential=[0.89] * 5).query("num_stages == 1").assign(rate="high")
    assert not row(pd.concat([slow, fast], ignore_index=True))["trained"]  # 30 of 79 points over guessing are too few


def test_loss_in_nats_is_judged_with_its_own_margin_and_guessing() -> None:
    losses = {"stash": 1.30, "latest": 1.36, "ema-span": 1.31}
    rng = np.random.default_rng(0)
    runs = made({"latest": list(_LATEST), "ema-span": list(_RULE)})
    runs = runs.assign(test_loss=[losses[name] + rng.normal(0, 0.003) for name in runs["strategy"]])
    found = Assay.of(runs, _NATS)
    assert found.costs["inconsistency"].item() == pytest.approx(0.06, abs=0.01)
    assert found.costs["sensitive"].item()
    assert set(found.rules["unit"]) == {"nats"}
    outcome = found.rules.set_index("strategy")["outcome"]
    assert (outcome["ema-span"], outcome["latest"]) == ("equivalent", "worse")
    lost = runs.assign(status=["diverged" if name == "latest" else "completed" for name in runs["strategy"]])
    gap = costs(scored(lost, _NATS), _NATS)["inconsistency"]
    assert gap.item() == pytest.approx(2.0 - 1.30, abs=0.01)


def test_shares_are_those_of_the_cell_and_the_control_has_none() -> None:
    found = Assay.of(made({"latest": list(_LATEST), "ema-span": list(_RULE)}), _SETTINGS).rules.set_index("strategy")
    stash, latest, rule = map(np.array, (_STASH, _LATEST, _RULE))
    assert found.loc["ema-span", "share"] == pytest.approx((rule - latest).mean() / (stash - latest).mean())
    assert found.loc["ema-span", "share_low"] < found.loc["ema-span", "share"] < found.loc["ema-span", "share_high"]
    assert found.loc["latest", "share"] == 0
    blind = Assay.of(made({"latest": [0.86, 0.85, 0.85, 0.86, 0.84], "ema-span": list(_RULE)}), _SETTINGS).rules
    assert not np.isfinite(blind.set_index("strategy").loc["ema-span", ["share_low", "share_high"]].astype(float)).any()


def test_fieller_covers_the_true_ratio_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(2000):
        common = rng.normal(0, 0.3, 6)
        found = ratio(0.8 + common + rng.normal(0, 0.2, 6), 1.0 + common + rng.normal(0, 0.2, 6), level=0.05)
        hits += found.low <= 0.8 <= found.high
    assert hits / 2000 == pytest.approx(0.9, abs=0.02)


def test_fieller_is_unbounded_exactly_where_the_denominator_may_be_0() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        a, b = rng.normal(1, 1, 5), rng.normal(0.7, 1, 5)
        away = stats.ttest_1samp(b, 0).pvalue < 0.1
        found = ratio(a, b, level=0.05)
        assert (math.isfinite(found.low) and math.isfinite(found.high)) == away


def test_with_the_guard_the_control_must_fail_for_other_test_images_too() -> None:
    runs = made({"latest": list(_LATEST)}, test_images=450)
    far = pd.DataFrame([_spread(0.9)])
    near = pd.DataFrame([_spread(0.1)])
    for examples, sensitive in ((far, False), (near, True)):
        found = Assay.of(runs, ComparisonSettings(1.0, 0.05, image_guard=True), examples)
        assert found.costs["sensitive"].item() == sensitive
    error = Assay.of(runs, ComparisonSettings(1.0, 0.05, image_guard=True), near).rules["image_error"].item()
    assert error == pytest.approx(stats.norm.ppf(0.95) * 100 * 0.1 / math.sqrt(450))


def _spread(value: float) -> dict[str, object]:
    key = {"dataset": "digits", "network": "mlp", "group_size": 1, "rate": "tuned"}
    return key | {"strategy": "latest", "reference": "stash", "examples": 450, "spread": value}


def test_cells_are_told_apart_and_corrected_together() -> None:
    runs = [made({"latest": list(_LATEST)}).assign(rate=rate) for rate in ("tuned", "common")]
    both = costs(scored(pd.concat(runs), _SETTINGS), _SETTINGS)
    alone = costs(scored(runs[0], _SETTINGS), _SETTINGS)
    assert list(both["rate"]) == ["tuned", "common"]
    assert both["p_sensitive"].tolist() == pytest.approx([2 * alone["p_sensitive"].item()] * 2)


def test_the_answer_of_several_cells_counts_them() -> None:
    columns: Accuracies = {"latest": list(_LATEST), "ema-span": list(_RULE), "ema-window": list(_LATEST)}
    cells = [made(columns), made(columns, network="vgg"), made(columns | {"latest": list(_RULE)}, network="resnet18")]
    found = Assay.joined(Assay.of(cell, _SETTINGS) for cell in cells)
    assert decided(found) == (3, 3)
    assert answer(found) == (
        "**So far yes: in all 2 cells** in which the weights of the backward pass matter (of 3 tried), an average that "
        "follows the delay is shown to lose less than the margin. "
        "In 1 cell no history is needed: with a rate of their own, the latest weights lose less than the margin."
    )
    split = Assay.joined([found.within(network="vgg"), Assay.of(made({"latest": list(_LATEST)} | _LOSING), _SETTINGS)])
    assert decided(split) == (2, 2)
    assert answer(split) == (
        "**In 1 of 2 cells** in which the weights of the backward pass matter (of 2 tried), an average that follows "
        "the delay is shown to lose less than the margin. In the other these averages (EMA window and EMA span) win "
        "back -208 % of what no history costs."
    )
    assert answer(split.within(network="mlp")) == (
        "**No: in the one cell** in which the weights of the backward pass matter (of 1 tried), every average that "
        "follows the delay is shown to lose more than the margin."
    )
    assert answer(found.within(network="resnet18")).startswith("**No history is needed** in 1 of 1 cell: the latest")
    silent = Assay.of(made(columns | {"latest": [0.85, 0.9, 0.8, 0.84, 0.88]}, network="cnn"), _SETTINGS)
    assert decided(silent) == (0, 1)
    assert answer(silent).startswith("**These runs can't tell**")


def test_readers_see_what_sequential_training_and_stash_reach() -> None:
    found = Assay.of(made({"latest": list(_LATEST)}, sequential=[0.88, 0.88, 0.87, 0.89, 0.88]), _SETTINGS)
    shown = costs_table(found).iloc[0]
    assert (shown["sequential"], shown["stash"]) == ("88.00", "85.20")
    losses = made({"latest": list(_LATEST)}).assign(test_loss=1.25)
    nats = costs_table(Assay.of(losses, _NATS)).iloc[0]
    assert (nats["sequential"], nats["stash"]) == ("–", "1.25")


def test_a_cell_that_cannot_tell_says_how_many_seeds_would() -> None:
    latest: list[float | None] = [0.85, 0.9, 0.8, 0.84, 0.88]
    found = Assay.of(made({"latest": latest}), _SETTINGS)
    runs = made({"latest": latest}).pivot(index="seed", columns="strategy", values="test_accuracy")
    gap = 100 * (runs["stash"] - runs["latest"])
    beyond = abs(gap.mean() - _SETTINGS.margin)
    needs = seeds_needed(beyond, gap.std(), level=_SETTINGS.level)
    assert found.costs["needs"].tolist() == [needs]
    assert costs_table(found)["a verdict is"].tolist() == [f"can't tell (about {needs:.0f} seeds would)"]
    far = replace(found, costs=found.costs.assign(needs=math.inf))
    assert costs_table(far)["a verdict is"].tolist() == ["can't tell (more than 1000 seeds would)"]
