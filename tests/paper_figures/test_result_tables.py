"""What is wrong with a results folder is said in one line."""

import re
from pathlib import Path

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures import theory
from paper_figures.records import KEYS, load
from tests import synthetic_records

THEORY = [f"theory/{name}" for name in theory.COLUMNS]


def refusal(folder: Path) -> str:
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_records.write(tmp_path_factory.mktemp("results"), synthetic_records.make(seeds=1))


@pytest.mark.parametrize("path", [*KEYS, *THEORY])
def test_missing_empty_headless_and_unfilled_files(folder: Path, path: str) -> None:
    file = folder / f"{path}.csv"
    remedy = "run: python -m experiments.theory" if path in THEORY else "run: make reproduce"
    whole, column = file.read_bytes(), {"runs": "lr", "epochs": "epoch"}.get(path, file.read_text().split(",")[0])
    for content, words in (
        (whole.partition(b"\n")[0] + b"\n", "has no rows"),
        (b"network\nmlp\n", "lacks the columns"),
        (b"", r"cannot be read \(EmptyDataError"),
        (b"\xff\xfe\x00broken", "cannot be read"),
        (pd.read_csv(file).assign(**{column: None}).to_csv(index=False).encode(), f"has no {column}"),
        (None, "does not exist"),
    ):
        if (path, words) == ("reconstruction", "has no rows"):  # of an experiment that doesn't probe
            continue
        file.unlink() if content is None else file.write_bytes(content)
        assert re.search(rf"{path}.csv' {words}.*; {remedy}", refusal(folder))
    file.write_bytes(whole)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("status", "crashed", "status 'crashed'"),
        ("lr", "fast", "column lr"),
        ("seed", None, "line 2, has no seed"),
        ("test_accuracy", None, "has no test_accuracy"),
        ("dataset", "cifar10", "mix datasets (cifar10, digits)"),
        ("convention", "pipedream", "mix conventions"),
        ("seed", 1, "two rows for"),
    ],
)
def test_bad_values(tmp_path: Path, column: str, value: object, words: str) -> None:
    tables = synthetic_records.make()
    tables["runs"] = tables["runs"].astype({column: object})
    tables["runs"].loc[0, column] = value
    assert words in refusal(synthetic_records.write(tmp_path, tables))
