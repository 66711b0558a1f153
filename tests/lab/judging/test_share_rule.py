"""The rule of shares: against scipy, cases made by hand, and how often it is wrong where its null hypothesis holds."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.judging.history_costs import judge
from layerpipe2.lab.judging.report import Report
from layerpipe2.lab.judging.share_rule import margins, mcnemar
from layerpipe2.lab.judging.statistics import holm, holm_levels, seeds_needed
from tests.sampling import slow

SEEDS = 10
SETTINGS = ComparisonSettings(0.5, 0.05, image_guard=False, least_share=0.75, margins={"mlp": 2.0})
NOISE = np.random.default_rng(1).normal(0, 0.4, SEEDS)
STASH, LATEST = 60 + NOISE, 50 - NOISE


def runs(network="mlp", **points):
    """Runs of a cell, strategy (with _ for -) -> per cent correct by seed; NaN: diverged."""
    given = {"sequential": np.full(SEEDS, 62.0), "stash": STASH, "latest": LATEST} | points
    rows = []
    for name, values in given.items():
        alone = name == "sequential"
        for seed, value in enumerate(np.asarray(values, dtype=float)):
            rows.append(
                {"network": network, "dataset": "digits", "optimizer": "sgd", "momentum": 0.0, "rate": "tuned"}
                | {"num_stages": 1 if alone else 9, "group_size": 9 if alone else 1, "seed": seed}
                | {"convention": "none" if alone else "layerpipe2", "strategy": name.replace("_", "-")}
                | {"status": "diverged" if math.isnan(value) else "completed", "test_accuracy": value / 100}
                | {"test_images": 10_000}
            )
    return pd.DataFrame(rows)


def rule(name="ema-lsq", settings=SETTINGS, **points):
    _, rules = judge(runs(**points), settings)
    return rules.set_index("strategy").loc[name]


def won_back(share, spread=0.1, seed=2):
    return LATEST + share * (STASH - LATEST) + np.random.default_rng(seed).normal(0, spread, SEEDS)


def test_the_control_is_shown_to_fail_by_its_accuracy_or_by_its_divergences():
    costs, _ = judge(runs(), SETTINGS)
    cell = costs.iloc[0]
    assert cell["sensitive"]
    assert cell["p_sensitive"] == pytest.approx(stats.ttest_1samp(STASH - LATEST, 2.0, alternative="greater").pvalue)
    assert (cell["delay"], cell["margin"], cell["whole"]) == (pytest.approx(np.mean(62 - STASH)), 2.0, 62.0)
    some = np.where(np.arange(SEEDS) < 6, math.nan, STASH)
    cell = judge(runs(latest=some), SETTINGS)[0].iloc[0]
    assert (cell["diverged_latest"], cell["p_diverges"], cell["sensitive"]) == (6, 0.5**6, True)
    cell = judge(runs(latest=np.where(np.arange(SEEDS) < 3, math.nan, STASH)), SETTINGS)[0].iloc[0]
    assert not cell["sensitive"]


def test_a_history_is_needless_where_the_latest_weights_are_shown_to_lose_less_than_the_margin():
    cell = judge(runs(latest=STASH - 0.5 + NOISE), SETTINGS)[0].iloc[0]
    assert (cell["sensitive"], cell["needless"]) == (False, True)


@pytest.mark.parametrize(
    ("points", "outcome"),
    [
        (won_back(0.95), "keeps"),
        (won_back(1.1), "keeps"),
        (won_back(0.60), "loses"),  # of the share
        (won_back(0.77, 3.0), "undecided"),
        (np.where(np.arange(SEEDS) < 6, math.nan, won_back(0.95)), "diverges"),
        (np.where(np.arange(SEEDS) < 1, math.nan, won_back(0.95)), "keeps"),  # one divergence may be an accident
    ],
)
def test_outcomes(points, outcome):
    assert rule(ema_lsq=points)["outcome"] == outcome


def test_share_and_margin_are_both_needed():
    strict = ComparisonSettings(0.5, 0.05, image_guard=False, least_share=0.75, margins={"mlp": 0.5})
    found = rule(settings=strict, ema_lsq=won_back(0.8))
    assert found["share"] == pytest.approx(0.8, abs=0.02)
    assert found["outcome"] == "loses"  # two points of ten, and only half a one is allowed


def test_p_values_are_scipys():
    points = won_back(0.8, 1.0)
    found = rule(ema_lsq=points)
    share = stats.ttest_1samp((points - LATEST) - 0.75 * (STASH - LATEST), 0, alternative="greater").pvalue
    margin = stats.ttest_1samp(points - STASH, -2.0, alternative="greater").pvalue
    assert found["p_keeps"] == pytest.approx(max(share, margin))
    assert found["p_loses"] == pytest.approx(min(1, 2 * min(1 - share, 1 - margin)))


def test_holm_runs_over_all_strategies_of_all_sensitive_cells():
    points = {"ema_lsq": won_back(0.8, 1.0), "pair": won_back(0.9, 1.0, 3), "ema_0.9": won_back(0.7, 1.0, 4)}
    _, together = judge(pd.concat([runs(**points), runs("cnn", **points)]), SETTINGS)
    _, cnn = judge(runs("cnn", ema_lsq=points["ema_lsq"]), SETTINGS)
    alone = {("mlp", name.replace("_", "-")): rule(name.replace("_", "-"), **{name: points[name]}) for name in points}
    assert len(alone) == 3
    assert (cnn["margin"] == 0.5).all()  # not named: the least margin
    others = together[together["strategy"] != "latest"].set_index(["network", "strategy"])
    mine = [alone[key]["p_keeps"] for key in alone]
    theirs = [
        judge(runs("cnn", **{n: points[n]}), SETTINGS)[1].query("strategy != 'latest'")["p_keeps"].item()
        for n in points
    ]
    wanted = holm([*mine, *theirs])
    keys = [*alone, *(("cnn", name.replace("_", "-")) for name in points)]
    assert [others.loc[key, "p_keeps"] for key in keys] == pytest.approx(wanted)


def test_every_interval_is_that_of_the_test_that_decides():
    """A strategy keeps exactly if both of its intervals say so."""
    rng, seen = np.random.default_rng(5), set()
    for _ in range(8):
        points = {
            name: won_back(rng.uniform(0.6, 1.0), rng.uniform(0.2, 2.0), int(rng.integers(10**6)))
            for name in ("ema_lsq", "pair", "ema_0.9")
        }
        _, rules = judge(runs(**points), SETTINGS)
        for row in rules[rules["strategy"] != "latest"].to_dict("records"):
            holds = row["share_low"] > 0.75 and row["low"] > -row["margin"]
            fails = row["share_high"] < 0.75 or row["high"] < -row["margin"]
            assert row["outcome"] == ("keeps" if holds else "loses" if fails else "undecided")
            seen.add(row["outcome"])
    assert seen == {"keeps", "loses", "undecided"}


def test_the_control_has_the_interval_of_the_test_that_judges_it():
    costs, rules = judge(pd.concat([runs(), runs("cnn", latest=STASH - 0.4 + NOISE)]), SETTINGS)
    control = rules[rules["strategy"] == "latest"]
    for name, other in (("low", "high"), ("high", "low")):
        assert (control[name].to_numpy() == -costs[f"inconsistency_{other}"].to_numpy()).all()
    for row in costs.to_dict("records"):
        assert (row["inconsistency_low"] > row["margin"]) == row["shared"]
        assert (row["inconsistency_high"] < row["margin"]) == row["needless"]


@pytest.mark.parametrize("completed", [4, 1, 0])
@pytest.mark.parametrize(("loss", "outcome"), [(0.01, "keeps"), (20, "loses")])
def test_where_the_control_fails_by_divergence_alone_the_margin_decides(completed, loss, outcome):
    latest = np.where(np.arange(SEEDS) < completed, STASH + 1, math.nan)
    costs, rules = judge(runs(latest=latest, ema_lsq=STASH - loss + NOISE / 10), SETTINGS)
    assert costs[["sensitive", "shared", "needless"]].iloc[0].tolist() == [True, False, False]
    assert rules.set_index("strategy").loc["ema-lsq", "outcome"] == outcome


def test_a_history_is_not_needless_where_the_latest_weights_diverged_more_often():
    latest = np.where(np.arange(SEEDS) < 6, STASH, math.nan)
    cell = judge(runs(latest=latest), SETTINGS)[0].iloc[0]
    assert (cell["sensitive"], cell["needless"]) == (False, False)


def test_levels_of_holm_decide_as_its_p_values():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(0, 0.08, 5)
        assert ((p < holm_levels(p, 0.05)) == (holm(p) < 0.05)).all()
    assert np.isnan(holm_levels([math.nan, 0.01], 0.05)[0])


@slow
@pytest.mark.parametrize(("share", "wrong"), [(0.75, "keeps"), (0.76, "loses")])
def test_it_is_rarely_wrong(share, wrong):
    """Where a strategy wins back just the least share, hardly more than one in twenty is said to keep, or lose."""
    rng, draws = np.random.default_rng(3), 100
    wide = ComparisonSettings(0.5, 0.05, image_guard=False, least_share=0.75, margins={"mlp": 9.0})
    points = (won_back(share, 1.0, int(rng.integers(10**9))) for _ in range(draws))
    found = [rule(settings=wide, ema_lsq=one)["outcome"] for one in points]
    assert np.mean([outcome == wrong for outcome in found]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (6, 0), (4, 2), (2, 5)])
def test_mcnemars_p_value_is_that_of_a_binomial_test(lost, won):
    expected = stats.binomtest(lost, lost + won, 0.5, alternative="greater").pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected)


def test_margins_are_the_spread_of_stash_at_the_rate_that_was_chosen():
    by_rate = {0.02: [0.60, 0.62, 0.64], 0.04: [0.70, 0.71, 0.75], 0.08: [0.8, 0.84, math.nan]}
    rows = [
        {"network": "mlp", "strategy": name, "lr": lr, "seed": seed, "val_accuracy": value - (name != "stash")}
        | {"round": 0, "trial": seed, "edge": False, "status": "diverged" if math.isnan(value) else "completed"}
        for name in ("stash", "latest")
        for lr, values in by_rate.items()
        for seed, value in enumerate(values)
    ]
    spread = 100 * float(np.std([0.70, 0.71, 0.75], ddof=1))
    assert margins(pd.DataFrame(rows), 0.5) == {"mlp": round(spread, 2)}
    assert margins(pd.DataFrame(rows), 5.0) == {"mlp": 5.0}


def test_the_rule_is_for_accuracies_of_one_test_part():
    with pytest.raises(UserError, match="leave out image_guard and nats"):
        Report(equivalence_margin_points=0.5, significance_level=0.05, image_guard=True, least_share=0.75)


def test_so_many_seeds_as_it_says_would_decide():
    for share in (0.72, 0.78):
        found = rule(ema_lsq=won_back(share, 1.5))
        assert found["outcome"] == "undecided"
        assert SEEDS < found["needs"] < 1000
    rng, needed, sd = np.random.default_rng(0), int(seeds_needed(0.5, 1.0, level=0.05)), 1.0
    draws = rng.normal(0.5, sd, (2000, needed))
    power = np.mean(stats.ttest_1samp(draws, 0, axis=1, alternative="greater").pvalue < 0.05)
    assert power == pytest.approx(0.8, abs=0.03)
    assert seeds_needed(0.0, 1.0, level=0.05) == math.inf
