"""The page of a campaign against records made by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from campaign_profiles import campaign, write_params

from experiments.campaign.tasks import Campaign, Task
from layerpipe2.errors import UserError
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale import build, comparisons
from paper_figures.full_scale.records import CampaignRecords, load
from paper_figures.full_scale.verdicts import verdicts

SETTINGS = Settings(margin=0.5, level=0.05, image_guard=False)
CHANGES: dict[str, Any] = {
    "stages": [3, 5],
    "strategies": ["stash", "latest", "ema-window", "ema-span", "ema-span-raw"],
    "seeds": [0, 1, 2, 3, 4],
}
BASE = {"sequential": 76.0, "stash": 75.5, "latest": 70.0, "ema-window": 72.0, "ema-span": 75.45, "ema-span-raw": 74.0}
NOISE = (0.3, -0.2, 0.1, -0.25, 0.05)  # of a seed, shared by all strategies
JITTER = (0.04, -0.06, 0.05, -0.02, -0.01)  # of a run

Accuracy = Callable[[Task], float | None]


def usual(task: Task) -> float | None:
    """Test accuracy in per cent: EMA span as good as stash, latest and EMA window worse; warm-up helps a little."""
    place = task.config.seed
    own = JITTER[(place + sum(map(ord, task.cell.name))) % 5]
    return BASE[task.cell.strategy] + NOISE[place] + own + (0.5 if task.config.stash_epochs else 0.0)


def write_records(mine: Campaign, accuracy: Accuracy = usual, keep: Callable[[Task], bool] = lambda t: True) -> None:
    for task in filter(keep, mine.tasks()):
        percent = accuracy(task) if task.final else 100 * task.config.lr
        config = task.config.to_dict() | ({"lr": 0.1} if task.final else {})
        share = None if percent is None else percent / 100
        record = {
            "schema": 1,
            "config": config,
            "network": {"units": 9, "parameters_per_stage": [1] * task.cell.stages},
            "convention": task.config.convention,
            "delays": list(range(2 * task.cell.stages - 2, -1, -2)),
            "history_copies": 1.0,
            "status": "completed" if percent is not None else "diverged",
            "diverged_epoch": None if percent is not None else 0,
            "epochs": [{"epoch": 0, "lr": 0.1, "val_accuracy": share}],
            "test": {"loss": 1.0, "accuracy": share, "images": 10_000},
            "reconstruction": [],
            "provenance": {"wall_time_s": 60.0, "train_time_s": 50.0, "commit": "abc", "device": "some device"},
        }
        path = mine.folder / task.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., CampaignRecords]:
    def make(accuracy: Accuracy = usual, **options: Any) -> CampaignRecords:
        mine = Campaign(campaign(tmp_path, **CHANGES).profile, tmp_path / "records" / "tiny")
        write_records(mine, accuracy, **options)
        return load(mine)

    return make


def answers(records: CampaignRecords) -> dict[str, str]:
    found = verdicts(records.runs, SETTINGS)
    return {verdict.question: verdict.answer for verdict in found}


def answer(records: CampaignRecords, pattern: str) -> str:
    (found,) = [value for question, value in answers(records).items() if re.search(pattern, question)]
    return found


def test_what_is_equivalent_and_what_loses(made: Callable[..., CampaignRecords]) -> None:
    records = made()
    assert answer(records, "EMA span as accurate") == "reproduced"
    assert answer(records, "EMA window as accurate") == "not reproduced"
    assert answer(records, "EMA span more accurate") == "yes"
    assert answer(records, "EMA window more accurate") == "yes"
    assert answer(records, "applied update better") == "yes"
    assert answer(records, "warm-up") == "yes"
    assert answer(records, "tell the latest") == "yes"


def test_a_loss_at_one_number_of_stages_is_reproduced_in_part(made: Callable[..., CampaignRecords]) -> None:
    def accuracy(task: Task) -> float | None:
        lost = task.cell.strategy == "ema-span" and task.cell.stages == 5
        value = usual(task)
        return value if value is None else value - 4.0 * lost

    records = made(accuracy)
    assert answer(records, "EMA span as accurate") == "in part"
    (verdict,) = [v for v in verdicts(records.runs, SETTINGS) if "EMA span as" in v.question]
    assert verdict.conditions.startswith("no loss: sgd at 3 stages (n=5); loss: sgd at 5 stages (n=5).")


def test_a_rule_that_diverged_alone_is_no_success(made: Callable[..., CampaignRecords]) -> None:
    records = made(lambda t: None if (t.cell.strategy, t.config.seed) == ("ema-span", 2) else usual(t))
    assert answer(records, "EMA span as accurate") == "not reproduced"
    assert answer(records, "EMA span more accurate") == "not shown"


@pytest.mark.parametrize(("seeds", "said"), [(5, "yes"), (3, "in part")])
def test_latest_weights_that_always_diverge_are_beaten_by_the_sign_test(
    made: Callable[..., CampaignRecords], seeds: int, said: str
) -> None:
    """Half to the power of 5 is below the level, half to the power of 3 is not."""
    records = made(
        lambda t: None if t.cell.strategy == "latest" else usual(t), keep=lambda t: not t.final or t.config.seed < seeds
    )
    p = comparisons.everywhere(records.runs, ["ema-span"], "latest", "superior", SETTINGS)["ema-span"]
    assert p == 0.5**seeds
    assert (p < SETTINGS.level) == (said == "yes")


def test_scatter_decides_nothing(made: Callable[..., CampaignRecords]) -> None:
    far = (3.0, -2.0, 1.5, -4.0, 2.5)
    records = made(lambda t: (usual(t) or 0) + far[t.config.seed] * (t.cell.strategy == "ema-span"))
    assert answer(records, "EMA span as accurate") == "inconclusive (n=5)"


def test_everywhere_is_the_largest_p_value_of_the_cells_with_holm_over_the_rules(
    made: Callable[..., CampaignRecords],
) -> None:
    runs = made().runs
    cells = [
        comparisons.against_stash(runs[(runs["num_stages"] == stages) & runs["strategy"].isin(["stash", "ema-span"])],
                                  SETTINGS)["p_equivalent"].item() for stages in (3, 5)]  # fmt: skip
    alone = comparisons.everywhere(runs, ["ema-span"], "stash", "equivalent", SETTINGS)
    assert alone == {"ema-span": pytest.approx(max(cells))}
    both = comparisons.everywhere(runs, ["ema-span", "ema-window"], "stash", "equivalent", SETTINGS)
    assert both["ema-span"] == pytest.approx(2 * max(cells))


def barely(task: Task) -> float:
    """Test accuracy of something that does not train."""
    return 10.0 + (usual(task) or 0) / 100


def test_where_stash_does_not_train_nothing_is_answered(made: Callable[..., CampaignRecords]) -> None:
    records = made(lambda t: barely(t) if t.cell.stages == 3 else usual(t))
    assert comparisons.untrained(records.runs) == {("sgd", 3): "10.8% where sequential training reaches 76.0%"}
    conditions = [v.conditions for v in verdicts(records.runs, SETTINGS) if v.answer != "no answer"]
    assert len(conditions) == 6
    assert not any("3 stages" in text for text in conditions)
    warm_up = verdicts(records.runs, SETTINGS)[-1]  # was run at 3 stages alone
    assert (warm_up.answer, "10.8%" in warm_up.conditions) == ("no answer", True)


def test_where_stash_trains_nowhere_every_question_says_so(made: Callable[..., CampaignRecords]) -> None:
    everywhere = made(lambda t: usual(t) if t.cell.stages == 1 else None if t.cell.stages == 3 else barely(t))
    assert answers(everywhere) == dict.fromkeys(answers(made()), "no answer")
    (reason,) = {v.conditions for v in verdicts(everywhere.runs, SETTINGS)}
    assert "sgd at 3 stages (diverged in every run), sgd at 5 stages (10.8%" in reason


@pytest.mark.parametrize("waits", ["sequential", "stash"])
def test_what_has_not_run_yet_is_not_untrained(made: Callable[..., CampaignRecords], waits: str) -> None:
    records = made(barely, keep=lambda t: not t.final or t.cell.strategy != waits)
    assert comparisons.untrained(records.runs) == {}


def test_the_trend_is_points_per_stage(made: Callable[..., CampaignRecords]) -> None:
    records = made(lambda t: (usual(t) or 0) - 0.3 * (t.cell.stages - 3) * (t.cell.strategy == "latest"))
    table = comparisons.trends(records.runs, SETTINGS).set_index("strategy")
    assert table.loc["latest", "slope"] == pytest.approx(-0.3, abs=0.05)
    assert table.loc["latest", "low"] < -0.3 < table.loc["latest", "high"]
    assert table.loc["latest", "n"] == 5


def _arguments(folder: Path) -> list[str]:
    names = {"params": "params.yaml", "records": "records", "out": "page"}
    return [word for name, path in names.items() for word in (f"--{name}", str(folder / path))]


def _build(folder: Path) -> dict[str, bytes]:
    out = folder / "page" / "tiny"
    build.main(_arguments(folder))
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_page_holds_everything_and_is_the_same_every_time(
    made: Callable[..., CampaignRecords], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made()
    files = _build(tmp_path)
    assert set(files) == {
        "figures/accuracy.png", "figures/accuracy.svg", "figures/differences.png", "figures/differences.svg",
        "page.html", "page.md", "tables/against_stash.csv", "tables/epochs.csv", "tables/runs.csv", "tables/tuning.csv",
        "verdicts.json",
    }  # fmt: skip
    assert "82 of 82 runs" in capsys.readouterr().out
    page = files["page.md"].decode()
    assert "Incomplete" not in page
    for text in ("75.45 ± 0.2", "EMA span, warm-up", "Devices: some device", "0.1*", "Effect of the number of stages"):
        assert text in page, text
    assert _build(tmp_path) == files


def test_an_unfinished_campaign_says_so(made: Callable[..., CampaignRecords], tmp_path: Path) -> None:
    made(keep=lambda t: not t.final or t.config.seed == 0)
    page = _build(tmp_path)["page.md"].decode()
    assert "**Incomplete.** 34 of 82 runs are finished; every answer may still change." in page
    assert "± " not in page.split("## Reconstruction")[0].split("## Test accuracy")[1].replace("mean ± SD", "")


def test_the_readme_has_answers_and_accuracies_of_every_profile(
    made: Callable[..., CampaignRecords], tmp_path: Path
) -> None:
    made(keep=lambda t: t.cell.strategy != "sequential" or t.config.seed != 4)
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- full-scale:begin -->\nold\n<!-- full-scale:end -->\nafter\n")
    arguments = [*_arguments(tmp_path), "--readme", str(path)]
    build.main(arguments)
    text = path.read_text()
    assert text.startswith(
        "before\n<!-- full-scale:begin -->\n| question | MLP of width 8, digits, 3, 5 stages, 1 epoch |\n"
    )
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| C6: EMA span as accurate as exact stashing (within 5 points)? | reproduced |" in text
    assert re.search(r"\| EMA window \| sgd, 5 stages: 72\.00 ± 0\.2\d \(n=5\) \|", text)
    assert "](page/tiny/page.md), 1 of 82 runs missing\n" in text
    build.main([*arguments, "--check"])
    path.write_text(text.replace("72.00", "75.00"))
    with pytest.raises(UserError, match=r"not those of the records; run: make readme"):
        build.main([*arguments, "--check"])


@pytest.mark.parametrize("given", ["", "published: []", "published: cpu", "published: [1]"])
def test_nothing_is_published(tmp_path: Path, given: str) -> None:
    path = write_params(tmp_path)
    path.write_text(f"report: {{}}\n{given}\n")
    with pytest.raises(UserError, match=r"published is .*; give a list of profiles whose records are committed"):
        build.main(_arguments(tmp_path))


def test_without_final_runs_there_is_no_page(made: Callable[..., CampaignRecords], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no final run of profile 'tiny' in .*; run `make paper PROFILE=tiny` first"):
        made(keep=lambda t: not t.final)


def test_bad_statistics_are_refused(tmp_path: Path) -> None:
    path = write_params(tmp_path)
    path.write_text(path.read_text().replace("equivalence_margin_points: 5", "equivalence_margin_points: 0"))
    with pytest.raises(UserError, match=r"report\.margin is 0; give a number between 0 and 100"):
        build._settings(path)
