"""What is wrong with a results folder is said in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import synthetic_records

from layerpipe2.errors import UserError
from paper_figures.records import theory
from paper_figures.records.training import load

Tables = dict[str, pd.DataFrame]


def _refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_records(tmp_path: Path) -> None:
    records = load(synthetic_records.write(tmp_path, synthetic_records.make()))
    assert (records.dataset, records.convention) == ("digits", "layerpipe2")
    assert records.networks == ["mlp", "resnet-small"]
    assert records.units() == synthetic_records.UNITS
    assert records.num_stages()["mlp", 4] == 3


@pytest.mark.parametrize("name", ["runs", "epochs", "reconstruction", "stages"])
def test_missing_empty_and_headless_files(tmp_path: Path, name: str) -> None:
    path = synthetic_records.write(tmp_path, synthetic_records.make(seeds=1)) / f"{name}.csv"
    header = path.read_text().splitlines()[0]
    path.write_text(header + "\n")
    assert f"{name}.csv' has no rows" in _refusal(tmp_path)
    path.write_text("network\nmlp\n")
    assert "lacks the columns" in _refusal(tmp_path)
    path.write_text("")
    assert "cannot be read" in _refusal(tmp_path)
    path.write_bytes(b"\xff\xfe\x00broken")
    assert "cannot be read" in _refusal(tmp_path)
    path.unlink()
    assert f"{name}.csv' does not exist" in _refusal(tmp_path)


def _set(column: str, value: object) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables["runs"] = tables["runs"].astype({column: object})
        tables["runs"].loc[0, column] = value

    return change


def _twice(tables: Tables) -> None:
    tables["runs"] = pd.concat([tables["runs"], tables["runs"].head(1)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("status", "crashed"), "status 'crashed'"),
        (_set("lr", "fast"), "column lr"),
        (_set("seed", None), "line 2, has no seed"),
        (_set("test_accuracy", None), "has no test_accuracy"),
        (_set("dataset", "cifar10"), "mix datasets (cifar10, digits)"),
        (_set("convention", "pipedream"), "mix conventions"),
        (_twice, "two rows for"),
    ],
)
def test_bad_values(tmp_path: Path, change: Callable[[Tables], None], words: str) -> None:
    tables = synthetic_records.make()
    change(tables)
    assert words in _refusal(synthetic_records.write(tmp_path, tables))


@pytest.mark.parametrize("name", ["proofs", "stability", "partitions", "schedules", "devices"])
def test_missing_and_headless_tables_of_the_theory(tmp_path: Path, name: str) -> None:
    folder = synthetic_records.write(tmp_path, synthetic_records.make(seeds=1)) / "theory"
    assert len(theory.load(folder).proofs) > 0
    for text, words in (("network\nmlp\n", "lacks the columns"), ("", "cannot be read"), (None, "does not exist")):
        if text is None:
            (folder / f"{name}.csv").unlink()
        else:
            (folder / f"{name}.csv").write_text(text)
        with pytest.raises(UserError, match=f"{name}.csv' {words}.*; run: python -m experiments.theory"):
            theory.load(folder)
