"""What is wrong with a results folder is said in one line."""

import re
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures.records import theory
from paper_figures.records.training import load
from tests import synthetic_records


def _refusal(folder: Path) -> str:
    """What is said on the records or, if they are whole, on the tables of the theory."""
    with pytest.raises(UserError) as caught:
        _ = load(folder), theory.load(folder / "theory")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_records(tmp_path: Path) -> None:
    records = load(synthetic_records.write(tmp_path, synthetic_records.make()))
    assert (records.dataset, records.convention) == ("digits", "layerpipe2")
    assert records.networks == ["mlp", "resnet-small"]
    assert records.units() == synthetic_records.UNITS
    assert records.num_stages()["mlp", 4] == 3


TABLES = ("runs", "epochs", "reconstruction", "stages")
THEORY = ("proofs", "stability", "partitions", "schedules", "devices", "spikepipe")


@pytest.mark.parametrize("path", [*(f"{name}.csv" for name in TABLES), *(f"theory/{name}.csv" for name in THEORY)])
def test_missing_empty_and_headless_files(tmp_path: Path, path: str) -> None:
    file = synthetic_records.write(tmp_path, synthetic_records.make(seeds=1)) / path
    remedy = "run: python -m experiments.theory" if path.startswith("theory") else "run: make reproduce"
    for content, words in (
        (file.read_bytes().partition(b"\n")[0] + b"\n", "has no rows"),
        (b"network\nmlp\n", "lacks the columns"),
        (b"", "cannot be read"),
        (b"\xff\xfe\x00broken", "cannot be read"),
        (None, "does not exist"),
    ):
        if (path, words) == ("reconstruction.csv", "has no rows"):  # of an experiment that doesn't probe
            continue
        file.unlink() if content is None else file.write_bytes(content)
        assert re.search(rf"{path}' {words}.*; {remedy}", _refusal(tmp_path))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("status", "crashed", "status 'crashed'"),
        ("lr", "fast", "column lr"),
        ("seed", None, "line 2, has no seed"),
        ("test_accuracy", None, "has no test_accuracy"),
        ("dataset", "cifar10", "mix datasets (cifar10, digits)"),
        ("convention", "pipedream", "mix conventions"),
    ],
)
def test_bad_values(tmp_path: Path, column: str, value: object, words: str) -> None:
    tables = synthetic_records.make()
    tables["runs"] = tables["runs"].astype({column: object})
    tables["runs"].loc[0, column] = value
    assert words in _refusal(synthetic_records.write(tmp_path, tables))


def test_a_run_that_stands_twice(tmp_path: Path) -> None:
    tables = synthetic_records.make()
    tables["runs"] = pd.concat([tables["runs"], tables["runs"].head(1)])
    assert "two rows for" in _refusal(synthetic_records.write(tmp_path, tables))
