"""The three answers in words, and the picture of the same, on made-up cells."""

import numpy as np
import pytest

from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures.claims.answers import answers
from paper_figures.claims.assay import Assay
from paper_figures.figures.answer import _differences
from tests.lab.judging.test_share_rule import LATEST, SEEDS, SETTINGS, STASH, runs, won_back


def made(settings: ComparisonSettings = SETTINGS, **points: np.ndarray) -> list[str]:
    return list(answers(Assay.of(runs(**points), settings))["answer"])


def test_each_strategy_is_said_to_stand_in_or_not() -> None:
    matter, stand_in, delay = made(ema_lsq=won_back(1.0), pair=won_back(0.5))
    lost = f"{np.mean(STASH - LATEST):.1f} points"
    assert matter == f"Yes: the latest weights lose against stored ones for MLP ({lost})."
    assert "EMA lsq, which follows the delay: yes for MLP (100 %)." in stand_in
    assert "pair: no for MLP (50 %)." in stand_in
    assert delay.endswith(f"in points of accuracy: MLP {np.mean(62 - STASH):.1f}.")


def test_divergences_of_the_latest_weights_are_counted() -> None:
    assert "and 6 of 10 runs diverged" in made(latest=np.where(np.arange(SEEDS) < 6, np.nan, LATEST))[0]


def test_where_nothing_is_lost_nothing_can_be_kept() -> None:
    matter, stand_in, _ = made(latest=STASH - 0.1 * (62 - STASH), ema_lsq=won_back(1.0))
    assert matter == "Hardly for MLP (less than 2.0 points)."
    assert stand_in == "These runs can't tell: nothing is lost without old weights."
    noisy = STASH - 2 + np.random.default_rng(0).normal(0, 3, SEEDS)
    assert made(latest=noisy)[0] == "These runs can't tell for MLP."


def test_the_picture_shows_differences_from_sequential_training_of_the_same_seed() -> None:
    table = runs(latest=np.where(np.arange(SEEDS) < 2, np.nan, LATEST)).assign(history_copies=1.5)
    rows = _differences(table, 0.05).set_index("strategy")
    assert rows.loc["stash", "mean"] == pytest.approx(np.mean(STASH - 62))
    assert rows.loc["stash", "low"] < rows.loc["stash", "mean"] < rows.loc["stash", "high"]
    assert (rows.loc["latest", "lost"], rows.loc["latest", "of"], rows.loc["latest", "n"]) == (2, SEEDS, SEEDS - 2)
