"""The page of the field, from made-up runs: what is counted, what is shown, and what may be said of it."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from paper_figures.field.joined import joined_answer
from paper_figures.field.language import language_answers, losses
from paper_figures.field.page import defined, gains, least_gain, load, row_name, setup_of
from paper_figures.field.updates import updates_to
from paper_figures.page import PAGES
from paper_figures.style import save
from tests.paper_figures import made_field
from tests.paper_figures.conftest import TOLD

FIELD = PAGES["field"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Final runs with one optimizer, a search with another."""
    results = tmp_path_factory.mktemp("field")
    made_field.write(results)
    made_field.write(results, "field-adamw", final=False)
    return FIELD.data(load(results))


def test_costs_are_paired_by_seed_and_divergences_are_counts(page):
    found = page["outcomes"].set_index(["setup", "network", "row"])
    feedback, lost, outside = (found.loc["SGD with momentum", "mlp", row] for row in ("feedback", "dc-asgd", "t1"))
    assert (feedback.n, feedback.diverged, feedback.copies) == (8, 0, 1.0)
    assert feedback.low < feedback.cost < feedback.high
    assert (feedback.cost, feedback.gain) == (pytest.approx(15, abs=1), pytest.approx(10, abs=1))
    assert (lost.n, lost.diverged, lost.runs, lost.strategy) == (7, 1, 8, "dc-asgd-3")
    # Of the search the trial with the best mean is shown, and never a rate at which a run diverged.
    assert (outside.final, outside.n, outside.strategy) == (False, 2, "t1-3")
    assert outside.cost == pytest.approx(24)
    assert not found.loc["AdamW"]["final"].any()


def test_p_values_are_adjusted_over_all_that_an_optimizer_has(page):
    tested = page["final"]["p"].dropna()
    assert len(tested) == 2 * 5  # both networks: without stash itself
    worst = page["final"].set_index(["network", "row"])["p"]
    assert worst["mlp", "feedback"] < 1e-5 < 0.05 < worst["cnn-small", "pair"]


@pytest.mark.parametrize(
    ("row", "setup", "answer"),
    [
        ("t1+t2", "Muon", True),
        ("spike", "SGD with momentum", True),
        ("spike", "momentum, 4 per update", True),
        ("pipeoptim", "AdamW", True),
        ("pipeoptim", "Muon", False),
        ("stash", "basis rotation", True),
    ],
)
def test_a_row_goes_with_the_optimizers_of_its_table(row, setup, answer):
    assert defined(row, setup) is answer


def test_how_narrowly_the_search_chose_is_told(page):
    searched, done = page["state"]
    assert done.endswith("; last in the front to first outside it: -3.00 points")
    assert searched.endswith(" runs of the search")


def test_only_what_is_shown_in_all_cells_is_advised(page):
    [line] = page["advice"]
    assert "SGD with momentum: error feedback gains" in line
    assert "in 2 cells" in line
    for name in ("pair", "DC-ASGD", "T1"):
        assert name not in line


@pytest.mark.parametrize(("name", "answer"), [("", "reproduced"), ("field-rotated", "in part")])
def test_all_collapse_without_a_stash_is_reproduced_only_where_rotation_is_unaffected(
    name, answer, tmp_path, monkeypatch
):
    made_field.write(tmp_path)
    if not name:
        monkeypatch.setitem(made_field.GAINS, "latest", made_field.GAINS["stash"])
    made_field.write(tmp_path, "field-rotated")
    [verdict] = FIELD.verdicts(FIELD.data(load(tmp_path)))
    assert verdict.word == answer
    assert verdict.evidence[0] == "2 of 2 cells of other optimizers collapse."


def test_the_front_has_what_no_row_beats_in_both(page):
    table = page.call(next(part.make for part in FIELD.parts["table"] if part.name == "pareto"))
    assert list(table[table["network"] == "mlp"]["row"]) == ["latest", "feedback"]


@pytest.mark.parametrize(
    ("losses", "updates"),
    [([2.0, 1.0, 0.5], 1000.0), ([2.0, 1.5, 0.5], 1250.0), ([0.9, 0.5], 500.0), ([2.0, math.nan], math.inf)],
    ids=["at an end", "between", "before the first end", "never"],
)
def test_updates_to_a_loss_are_linear_between_ends_of_epochs(losses, updates):
    assert updates_to(np.array(losses), 1.0, 500) == updates


def test_names_of_rows_and_experiments():
    assert [row_name(name) for name in ("t1-800+t2", "dc-asgd-fixed-0.4", "ema-0.9", "feedback-d")] == [
        *("t1+t2", "dc-asgd-fixed", "ema-0.9", "feedback-d"),
    ]
    names = ("momentum", "adamw-one", "amdp", "accumulate-one")
    assert [setup_of(f"field-{name}") for name in names] == [
        *(("2S", "SGD with momentum"), ("1", "AdamW")),
        *(("AMDP", "momentum, 4 per update"), ("1", "momentum, 4 per update")),
    ]


@pytest.mark.parametrize("final", [True, False], ids=["final runs", "search alone"])
def test_every_state_has_a_page(final, tmp_path):
    made_field.write(tmp_path, final=final)
    built = FIELD.build(load(tmp_path))
    assert set(built.figures) == ({"heat_2S", "pareto", "updates_to_target"} if final else {"heat_2S"})
    assert set(re.findall(TOLD, built.text)) == set(built.figures)
    for stem, draw in built.figures.items():
        assert save(draw(), tmp_path / stem).stat().st_size > 1000
    assert "Nothing is measured yet" in FIELD.build(load(tmp_path / "none")).text


def test_the_best_row_of_every_optimizer_is_compared_with_the_next_ones(tmp_path):
    made_field.write(tmp_path)
    assert FIELD.data(load(tmp_path))["highest"] == []
    made_field.write(tmp_path, "field-adamw")
    lines = FIELD.data(load(tmp_path))["highest"]
    assert [line.split(":")[0] for line in lines] == ["MLP", "CNN (small)"]
    for line in lines:
        assert ": highest with AdamW, error feedback, " in line
        assert "; the next optimizer is SGD with momentum with error feedback, 0.0 points less [0.0, 0.0]." in line
        assert re.search(r"With the latest weights and no copy AdamW reaches \d\d\.\d %\.$", line)


def test_a_language_model_is_judged_by_its_loss(page):
    made = {"sequential": 1.9, "stash": 2.3, "feedback": 2.1, "pair": 2.3}
    noise = np.random.default_rng(0)
    rows = [
        {"strategy": name, "seed": seed, "test_loss": loss + 0.002 * noise.standard_normal(), "lr": 1e-3}
        for name, loss in made.items()
        for seed in range(5)
    ]
    rows[-1] |= {"test_loss": math.nan}
    runs = pd.DataFrame(rows).assign(status="completed", history_copies=1.0, num_stages=3)
    runs.loc[runs["test_loss"].isna(), "status"] = "diverged"
    tried = [{"network": "gpt-small", "strategy": name, "lr": lr} for name in made for lr in (1e-4, 1e-3)]
    found = losses([SimpleNamespace(runs=runs, tuning=pd.DataFrame(tried))]).set_index("strategy")
    assert set(found["end"]) == {"highest"}
    assert found["n"].to_dict() == {"sequential": 5, "stash": 5, "feedback": 5, "pair": 4}
    assert found["diverged"].to_dict() == {"sequential": 0, "stash": 0, "feedback": 0, "pair": 1}
    assert found.loc["feedback", "gain"] == pytest.approx(0.2, abs=0.005)
    assert found.loc["feedback", "p"] < 1e-5 < found.loc["pair", "p"]
    assert math.isnan(found.loc["stash", "p"])
    (said,) = language_answers(found.reset_index())
    shown = r"shown to gain over it: error feedback 0\.\d+; shown to lose: pair \(diverged\)\."
    assert re.fullmatch(r"3 stages: with exact stashing the delay costs 0\.4\d\d nats; " + shown, said), said
    (said,) = language_answers(found.assign(p=1.0, diverged=0).reset_index())
    assert said.endswith("nothing is shown to gain over it or to lose.")
    assert page["language_answers"] == []


def test_a_language_model_of_several_depths_has_a_line_for_each():
    rows = [
        {"strategy": name, "seed": seed, "test_loss": loss + 0.001 * seed * k, "num_stages": stages, "lr": 1e-3}
        for stages, stash in ((6, 2.5), (2, 2.0))
        for k, (name, loss) in enumerate({"sequential": 1.9, "stash": stash, "latest": stash + 0.1}.items())
        for seed in range(5)
    ]
    runs = pd.DataFrame(rows).assign(status="completed", history_copies=1.0)
    found = losses([SimpleNamespace(runs=one, tuning=None) for _, one in runs.groupby("num_stages", sort=False)])
    assert language_answers(found) == [
        f"{stages} stages: with exact stashing the delay costs 0.{cost}02 nats; shown to lose: latest 0.102."
        for stages, cost in ((2, 1), (6, 6))
    ]


def test_where_rows_gain_and_lose_is_counted_over_all_optimizers(page):
    assert page["overall"][0] == "error feedback gains in 2 of 2 cells, loses in 0"


def test_rows_that_do_without_a_stash_stand_beside_the_same_with_one(tmp_path):
    made_field.write(tmp_path)
    made_field.write(tmp_path, "field-joined-momentum", gains={"stash": 0.30, "feedback+ema-span": 0.38})
    data = FIELD.data(load(tmp_path))
    table = data["without_stash"]
    assert [*table["row"]] == ["feedback+ema-span"] * 2
    for row in table.itertuples():
        assert (row.setup, row.n, row.diverged, row.saved) == ("SGD with momentum", 8, 0, 0)
        assert (row.gain, row.own) == (pytest.approx(8, abs=1), pytest.approx(-2, abs=1))
        assert row.own_low < row.own < row.own_high
        assert row.p < 1e-4
    said = r"error feedback \+ EMA span \(1\.0 copies\) gains in 2 of 2 cells \(\+8\.\d to \+8\.\d points\), loses in 0"
    assert re.match(said, data["joined_answer"]), data["joined_answer"]
    assert joined_answer(table.assign(check_low=-0.1)) == "none in 2 comparisons"
    assert "gains in 0 of 2 cells, loses in 2" in joined_answer(table.assign(diverged=1))
    assert "field-joined-momentum" not in data["found"]
    assert not data["outcomes"]["row"].str.contains("+", regex=False).any()


def test_a_gain_that_a_check_of_stash_takes_away_is_not_shown(tmp_path):
    made_field.write(tmp_path)
    made_field.write(tmp_path, "field-rate-momentum", gains={"stash": 0.41})
    data = FIELD.data(load(tmp_path))
    feedback = data["final"][data["final"]["row"] == "feedback"]
    assert (feedback["p"] < 1e-4).all()
    assert (least_gain(feedback) < 0).all()
    assert not gains(feedback).any()
    assert data["overall"] == []
    assert "law 2S: exact stashing at the rate of most rows is 11." in data["check_note"]
    assert "field-rate-momentum" not in data["found"]


def test_a_page_without_joined_rows_says_nothing_of_them(page):
    assert (len(page["without_stash"]), page["joined_answer"]) == (0, "")
