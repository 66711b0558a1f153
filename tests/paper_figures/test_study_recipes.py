"""The recipes of docs/howto/add-to-the-study.md, followed to the letter beside the questions that are there."""

import importlib.util
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures.page import PAGES, report
from paper_figures.report import known
from tests import synthetic_records
from tests.test_recipes import follow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the new files, which are imported."""
    for folder in ("paper_figures/accuracy", "paper_figures/energy", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "scope.md", tmp_path / "docs")
    monkeypatch.setattr(report, "parts", {kind: list(parts) for kind, parts in report.parts.items()})
    for number, path in enumerate(follow(ROOT / "docs" / "howto" / "add-to-the-study.md", tmp_path)):
        if path.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"recipe{number}", tmp_path / path)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return tmp_path


def test_a_figure_a_claim_and_a_question_come_onto_their_pages(followed: Path) -> None:
    data = known(synthetic_records.records(), synthetic_records.theory_tables(), ComparisonSettings())
    made = report.build(data)
    assert "![lengths](figures/lengths.svg)" in made.text
    assert made.figures["lengths"]().axes
    rows = dict(re.findall(r"^\| (C\d) \| (.*) \|$", (followed / "docs" / "scope.md").read_text(), re.MULTILINE))
    assert rows == {claim.key: claim.question for claim in made.verdicts}
    assert made.verdicts[-1].test == "At least 0.5 of the runs did not diverge."
    page = PAGES.pop("energy")
    with pytest.raises(UserError, match=r"energy\.csv' does not exist; run: python -m experiments\.energy"):
        page.load(followed)
    (followed / "energy").mkdir()
    table = pd.DataFrame({"strategy": ["stash", "latest"], "joules": [2.5, 1.5]})
    table.to_csv(followed / "energy" / "energy.csv", index=False)
    assert "| strategy | joules |\n| --- | --- |\n| latest | 1.5 |" in page.build(page.load(followed)).text
    table.assign(joules=None).to_csv(followed / "energy" / "energy.csv", index=False)
    with pytest.raises(UserError, match="has no joules; run: python"):
        page.load(followed)
