"""The loss of guessing, of experiments that judge losses."""

import json
import math

import pytest
import torch

from experiments import collect
from experiments import run as runs
from experiments.accuracy import guess
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from paper_figures import records
from tests.small_experiments import REPORT, UNTUNED, small, write_experiment

_SMALL = {"strategies": ["stash"], "group_sizes": [3], "seeds": [0], "jobs": 1}
_LOSSES = _SMALL | {"report": REPORT | {"equivalence_margin_nats": 0.02}}


def test_guessing_knows_how_often_each_class_comes_in_the_training_data():
    train, test = torch.tensor([[0, 0], [0, 1]]), torch.tensor([0, 2])
    shares = [4 / 7, 2 / 7, 1 / 7]  # counts 3, 1, 0, and one more of each
    assert guess.guess_nats(train, test, 3) == pytest.approx(-(math.log(shares[0]) + math.log(shares[2])) / 2)


def test_it_is_measured_before_training_and_reaches_the_verdicts(tmp_path):
    path = write_experiment(tmp_path, UNTUNED, **_LOSSES)
    runs.main([path, "--out", str(tmp_path / "out"), "--quiet"])
    measured = json.loads((tmp_path / "out" / guess.FILE).read_text())
    assert measured == {"digits": pytest.approx(math.log(10), abs=0.01)}
    collect.main([path, "--records", str(tmp_path / "out"), "--out", str(tmp_path / "tables")])
    settings = ComparisonSettings.of(records.load(tmp_path / "tables").experiment)
    assert (settings.unit, settings.margin, settings.guess) == ("nats", 0.02, measured)
    with pytest.raises(UserError, match=r"the loss of guessing is {}, but the unit is nats; give it"):
        ComparisonSettings(unit="nats")
    accuracies = small(tmp_path, UNTUNED, **_SMALL)  # have none
    (accuracies.folder / guess.FILE).unlink()
    guess.measure(accuracies)
    assert guess.measured(accuracies) is None
    assert not (accuracies.folder / guess.FILE).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"guess\.json can't be read .*; delete it"),
        ('{"wordnet": 3}', r"guess\.json lacks digits; delete it if it is there, and start experiments"),
        ('{"digits": null}', r"guess\.json: digits is None, but a loss is a number above 0; delete it if"),
        ('{"digits": -3.1}', r"guess\.json: digits is -3\.1, but"),
    ],
)
def test_what_is_missing_or_broken_is_said_in_one_line_and_what_is_there_stays(tmp_path, text, message):
    grid = small(tmp_path, UNTUNED, **_LOSSES)
    grid.folder.mkdir()
    if text is not None:
        (grid.folder / guess.FILE).write_text(text)
    with pytest.raises(UserError, match=message):
        guess.measured(grid)
    if "wordnet" in (text or ""):
        guess.measure(grid)
        assert json.loads((grid.folder / guess.FILE).read_text()).keys() == {"wordnet", "digits"}
        assert guess.measured(grid).keys() == {"digits"}
