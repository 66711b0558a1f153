"""Generated programs train as the clock-driven reference says, or are refused; most of them train."""

import pytest

from tests.programs.trial import tried


@pytest.mark.parametrize(("processes", "number"), [(1, 120), (2, 30)])
def test_equal_or_refused(processes, number):
    counts = tried(processes, number)
    assert counts.total() >= number
    assert counts["equal"] >= 0.6 * counts.total()
