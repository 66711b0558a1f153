"""Generated programs train as the clock-driven reference says, or are refused; most of them train."""

import pytest

from tests.programs.program import EVERY, Program
from tests.programs.trial import outcome, tried
from tests.programs.two_processes import TwoProcesses

FOUND = {
    "corrected updates, the whole stage frozen": Program(
        "tokens", ("linear",), (1, 2), "layerpipe2", "feedback, window", frozen=(("0.0.weight", -1, 1),)
    ),
    "clipped by a LambdaCallback": Program(
        "features", ("linear",), (1, 1), "pipedream", "latest", clip=0.05, clip_by="callback"
    ),
    "a prediction for a weight that is frozen for a while": Program(
        "features",
        ("linear", "linear"),
        (1, 2),
        "layerpipe2",
        "prediction",
        "momentum",
        epochs=3,
        batch=3,
        batches=3,
        frozen=(("0.0.weight", 3, 8),),
    ),
}
"""Programs that once differed or failed."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(name):
    assert outcome(FOUND[name], TwoProcesses()) == "equal"


@pytest.mark.parametrize("strategy", EVERY)
def test_equal_or_refused(strategy):
    """Hypothesis likes to repeat a strategy: each has programs of its own."""
    counts = tried(1, 5, EVERY.index(strategy), [strategy])
    assert counts["equal"] > 0, counts


def test_equal_or_refused_in_two_processes():
    counts = tried(2, 24)
    assert counts["equal"] >= 0.6 * counts.total()
