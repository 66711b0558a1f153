"""What a row computes beside exact stashing, against counts by hand."""

import pytest

from experiments.field.operations import operations
from layerpipe2 import UserError


@pytest.mark.parametrize(
    ("name", "optimizer", "count"),
    [
        ("stash", "SGD", 0),
        ("latest", "SGD", 0),
        ("ema-span", "SGD", 3),  # u = before - after; E moves to it; latest + lag E
        ("feedback", "SGD", 5),  # u, u - u0, times c, nothing at the first update, after - that
        ("feedback+ema-span", "SGD", 8),
        ("last-update", "AdamW", 3),  # u; d u; latest - that
        ("spectrain", "SGD", 4),  # rate v; none at first; d times that; latest - that
        ("t1-50", "SGD", 3),  # u; share; before - that
    ],
)
def test_operations_are_those_that_the_row_writes(name, optimizer, count):
    assert operations(name, optimizer) == count


def test_a_row_that_refuses_the_optimizer_has_no_count():
    with pytest.raises(UserError, match="SpecTrain is made from SGD's momentum buffer"):
        operations("spectrain", "AdamW")
