"""What is slow: `make test` runs a sample of it, `make test-all` everything."""

import pytest

slow = pytest.mark.slow


def sampled(cases, sample):
    """Cases for ``parametrize``: those in ``sample`` always, the others marked as slow. One case may be a tuple."""
    missing = [case for case in sample if case not in cases]
    assert not missing, f"{missing} can't be a sample of {cases}"
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=() if c in sample else slow) for c in cases]
