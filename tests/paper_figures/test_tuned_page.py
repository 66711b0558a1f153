"""The verdicts and the page of a tuned experiment, from tables made by hand."""

import re
from pathlib import Path

import pytest

from layerpipe2.errors import UserError
from paper_figures import build
from paper_figures.claims import tuned as families
from paper_figures.claims.tuned import verdicts
from paper_figures.comparisons import Settings, everywhere, pairs
from paper_figures.designs import BY_OPTIMIZER, untrained
from paper_figures.pages import fill
from paper_figures.pages.tuned import page
from paper_figures.records.tuned import TunedRecords, load
from paper_figures.verdicts import Verdict
from tests.paper_figures.made_tuned import Accuracy, Run, make, usual, write

SETTINGS = Settings(margin=0.5, level=0.05, image_guard=False)


def found(records: TunedRecords) -> dict[str, Verdict]:
    return {verdict.question: verdict for verdict in verdicts(records.runs, SETTINGS)}


def one(records: TunedRecords, pattern: str) -> Verdict:
    (verdict,) = [verdict for question, verdict in found(records).items() if re.search(pattern, question)]
    return verdict


def lowered(strategy: str, points: float, stages: int) -> Accuracy:
    return lambda run: usual(run) - points * ((run.strategy, run.stages) == (strategy, stages))


def test_what_is_equivalent_and_what_loses() -> None:
    expected = {
        "EMA span as accurate": "reproduced",
        "EMA window as accurate": "not reproduced",
        "EMA span more accurate": "yes",
        "EMA window more accurate": "yes",
        "applied update better": "yes",
        "warm-up": "yes",
        "tell the latest": "yes",
    }
    assert {pattern: one(make(), pattern).word for pattern in expected} == expected


def test_a_loss_at_one_number_of_stages_is_reproduced_in_part() -> None:
    verdict = one(make(lowered("ema-span", 4.0, 5)), "EMA span as")
    assert verdict.word == "in part"
    assert verdict.caveat.startswith("no loss: sgd at 3 stages (n=5); loss: sgd at 5 stages (n=5).")


def test_a_rule_that_diverged_alone_is_no_success() -> None:
    records = make(lambda run: None if (run.strategy, run.seed, run.warm) == ("ema-span", 2, False) else usual(run))
    assert one(records, "EMA span as accurate").word == "not reproduced"
    assert one(records, "EMA span more accurate").word == "not shown"


@pytest.mark.parametrize(("seeds", "decided"), [(5, True), (3, False)])
def test_latest_weights_that_always_diverge_are_beaten_by_the_sign_test(seeds: int, decided: bool) -> None:
    """Half to the power of 5 is below the level, half to the power of 3 is not."""
    records = make(lambda run: None if run.strategy == "latest" else usual(run), lambda run: run.seed < seeds)
    paired = pairs(records.runs, "latest", BY_OPTIMIZER)
    p = everywhere(paired, ["ema-span"], "superior", SETTINGS, BY_OPTIMIZER)["ema-span"]
    assert p == 0.5**seeds
    assert (p < SETTINGS.level) == decided


def test_scatter_decides_nothing() -> None:
    far = (3.0, -2.0, 1.5, -4.0, 2.5)
    records = make(lambda run: usual(run) + far[run.seed] * (run.strategy == "ema-span"))
    assert one(records, "EMA span as accurate").word == "inconclusive (n=5)"


def test_everywhere_is_the_largest_p_value_of_the_cells_with_holm_over_the_rules() -> None:
    runs = make().runs
    chosen = runs["strategy"].isin(["stash", "ema-span"])
    cells = [
        families.against_stash(runs[(runs["num_stages"] == stages) & chosen], SETTINGS)["p_equivalent"].item()
        for stages in (3, 5)
    ]
    paired = pairs(runs, "stash", BY_OPTIMIZER)
    alone = everywhere(paired, ["ema-span"], "equivalent", SETTINGS, BY_OPTIMIZER)
    assert alone == {"ema-span": pytest.approx(max(cells))}
    both = everywhere(paired, ["ema-span", "ema-window"], "equivalent", SETTINGS, BY_OPTIMIZER)
    assert both["ema-span"] == pytest.approx(2 * max(cells))


def barely(run: Run) -> float:
    """Test accuracy of something that does not train."""
    return 10.0 + usual(run) / 100


def test_where_stash_does_not_train_nothing_is_answered() -> None:
    records = make(lambda run: barely(run) if run.stages == 3 else usual(run))
    assert list(untrained(records.runs, BY_OPTIMIZER)) == [("sgd", 3)]
    assert families.left_out(records.runs) == "sgd at 3 stages (10.8% where sequential training reaches 76.0%)"
    caveats = [verdict.caveat for verdict in found(records).values() if verdict.word != "no answer"]
    assert len(caveats) == 6
    assert not any("3 stages" in text for text in caveats)
    warm_up = verdicts(records.runs, SETTINGS)[-1]  # was run at 3 stages alone
    assert (warm_up.word, "10.8%" in warm_up.caveat) == ("no answer", True)


def test_where_stash_trains_nowhere_every_question_says_so() -> None:
    everything = make(lambda run: usual(run) if run.stages == 1 else None if run.stages == 3 else barely(run))
    words = {question: verdict.word for question, verdict in found(everything).items()}
    assert words == dict.fromkeys(found(make()), "no answer")
    (reason,) = {verdict.caveat for verdict in found(everything).values()}
    assert "sgd at 3 stages (diverged in every run), sgd at 5 stages (10.8%" in reason


@pytest.mark.parametrize("waits", ["sequential", "stash"])
def test_what_has_not_run_yet_is_not_untrained(waits: str) -> None:
    assert untrained(make(barely, lambda run: run.strategy != waits).runs, BY_OPTIMIZER) == {}


def test_the_trend_is_points_per_stage() -> None:
    records = make(lambda run: usual(run) - 0.3 * (run.stages - 3) * (run.strategy == "latest"))
    row = families.trends(records.runs, SETTINGS).set_index("strategy").loc["latest"]
    assert row["slope"] == pytest.approx(-0.3, abs=0.05)
    assert row["low"] < -0.3 < row["high"]
    assert row["n"] == 5


def built(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file of the page that is built from the tables in a folder."""
    out = folder / "page" / "full_scale" / "tiny"
    build.main(["page", "tiny", "--results", str(folder), "--out", str(folder / "page")])
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_page_holds_everything_and_is_the_same_every_time(tmp_path: Path, capsys) -> None:
    folder = write(tmp_path, make())
    files = built(tmp_path)
    drawn = {f"figures/{name}.{kind}" for name in ("accuracy", "differences") for kind in ("png", "svg")}
    tables = {f"tables/{name}.csv" for name in ("against_stash", "epochs", "runs", "tuning")}
    assert set(files) == drawn | tables | {"page.html", "page.md", "verdicts.json"}
    assert "87 of 87 runs" in capsys.readouterr().out
    assert files["tables/runs.csv"] == (folder / "runs.csv").read_bytes()  # every digit
    text = files["page.md"].decode()
    assert "Incomplete" not in text
    for words in ("75.45 ± 0.2", "EMA span, warm-up", "Devices: some device", "0.1*", "Effect of the number of stages"):
        assert words in text, words
    assert built(tmp_path) == files


def test_an_unfinished_experiment_says_so() -> None:
    made = page(make(keep=lambda run: run.seed == 0))
    text = fill(made.template, made.content)
    assert "**Incomplete.** 35 of 87 runs are finished; every answer may still change." in text
    assert "± " not in text.split("## Reconstruction")[0].split("## Test accuracy")[1].replace("mean ± SD", "")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("runs.csv", None, "does not exist"),
        ("chosen.csv", "optimizer\nsgd\n", "lacks the columns num_stages"),
        ("experiment.json", None, "can't be read"),
        ("experiment.json", "{", "isn't valid JSON"),
        ("experiment.json", "[]", "is no mapping"),
    ],
)
def test_broken_tables_are_one_line(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    path = write(tmp_path, make()) / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=rf"{name}'? {words}.*; run: python -m experiments\.collect tiny"):
        load(path.parent)
