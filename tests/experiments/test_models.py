"""Networks of other libraries: cut as they come, and the same bits in two processes as in the simulation."""

import csv
from pathlib import Path

import pytest

from experiments.models.__main__ import TITLES, page, row
from experiments.models.networks import MODELS
from experiments.models.train import trained
from tests.pipeline import processes
from tests.sampling import slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "at"),
    [pytest.param("transformers T5", "decoder.block.1", marks=slow), ("U-Net", "up.0")],
)
def test_a_small_network_trains_in_two_processes_as_in_the_simulation(name, at):
    alone = trained(name, [at], ("ema-span",))["ema-span"]
    several = [found["ema-span"] for found in processes.run(trained, 2, name, [at], ("ema-span",), processes=True)]
    assert [one["loss"] for one in several] == [alone["loss"]] * 2
    assert several[0]["digests"] | several[1]["digests"] == alone["digests"]


@slow
@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_cut_as_it_comes(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT}")
    found = row(name)
    assert (found["refused"], found["bits"]) == ("", "same bits")
    assert float(found["average"]) < float(found["stash"])


def test_the_page_shows_the_committed_table():
    with (ROOT / "results" / "models" / "models.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [one["network"] for one in rows] == list(MODELS)
    assert all(list(one) == list(TITLES) for one in rows)
    text = (ROOT / "docs" / "models.md").read_text()
    assert text == page(text, rows)
    assert all(f"| {name} |" in text for name in MODELS)
