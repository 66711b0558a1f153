"""What every data set of the table must do: a new row is tested by being there."""

import pytest
import torch

from layerpipe2.lab.data import DATASETS, IMAGES, BatchLoader, load, split
from layerpipe2.lab.data.specs import DatasetSpec
from tests.sampling import sampled

AT_HAND = [
    name
    for name, row in DATASETS.items()
    if (bool(row.read or row.compute) if isinstance(row, DatasetSpec) else row.system_folder is None)
]
"""They ship with a dependency or are computed; the others must be downloaded."""
READ = [name for name in AT_HAND if not getattr(DATASETS[name], "compute", None)]
"""To compute data takes ten seconds, and test_data_mnist1d.py does."""


@pytest.mark.parametrize("name", DATASETS)
def test_a_row_says_what_is_expected(name: str) -> None:
    row = DATASETS[name]
    assert row.name == name
    assert row.label.strip() == row.label != ""
    assert row.num_classes > 1
    assert all(size > 0 for size in row.input_shape)
    assert "\n" not in row.remedy
    assert row.remedy != ""
    if isinstance(row, DatasetSpec):
        assert len(row.input_shape) == 3
        checked = 0 if row.read or row.compute or row.half_of or row.read_folder else row.input_shape[0]
        assert bool(row.pattern) == (row.read_folder is not None)
        assert len(row.mean) == len(row.std) == checked
        assert (min(row.per_class) > 0) == bool(checked)
        assert bool(row.source) == bool(row.read or row.compute)
        assert row.half_of is None or tuple(2 * n for n in row.input_shape[1:]) == IMAGES[row.half_of].input_shape[1:]


def test_no_two_rows_have_one_label() -> None:
    assert len({row.label for row in DATASETS.values()}) == len(DATASETS)
    assert list(DATASETS)[: len(IMAGES)] == list(IMAGES)


@pytest.mark.parametrize("name", sampled(AT_HAND, READ))
def test_data_at_hand_is_what_the_row_says_and_gives_batches(name: str) -> None:
    row, lines = DATASETS[name], list[str]()
    data, again = load(name, announce=lines.append), load(name)
    assert lines == [f"{name}: reading {data.source}"]
    assert (data.name, data.input_shape, data.num_classes) == (name, row.input_shape, row.num_classes)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(data, part), getattr(again, part)), f"{part} is another one each time"
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert len(x) == len(y) > 0
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert int(y.min()) >= 0
        assert int(y.max()) < data.num_classes
    train = split(data, 0.2, seed=0).train
    x, y = next(iter(BatchLoader(train, 8, mean=data.mean, std=data.std, seed=0)))
    assert x.shape == (8, *row.input_shape)
    assert len(y) == 8
    assert x.isfinite().all()
