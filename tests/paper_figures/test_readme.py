"""What the README shows is what runs."""

import re
from pathlib import Path

import pytest

from paper_figures.full_scale import build

README = (Path(__file__).parents[2] / "README.md").read_text()


# Lightning's advice on loaders, loggers and log intervals, which a first user sees too.
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX`:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
def test_the_snippet_runs_as_it_stands(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {}
    exec(snippet, scope)
    assert scope["module"].delays.per_stage == (6, 4, 2, 0)
    assert scope["module"].trainer.global_step == 32
    assert {"train_loss", "val_accuracy"} <= scope["module"].trainer.callback_metrics.keys()


def test_the_full_scale_results_are_those_of_the_committed_records(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    build.main(["--readme", "README.md", "--check"])


def test_links_lead_somewhere():
    root = Path(__file__).parents[2]
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert len(links) >= 5
    assert [target for target in links if not (root / target).exists()] == []
