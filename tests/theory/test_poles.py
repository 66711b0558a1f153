"""Two complex poles: against a least-squares fit of the boxcar, the limits in the text, and what they keep."""

import numpy as np
import pytest

from layerpipe2 import UserError
from layerpipe2.strategies.moments import Updates
from layerpipe2.theory.poles import two_poles
from layerpipe2.theory.reconstruction import error


def kernel(delay, unbiased=True):
    """What the filter makes of one update, over its ages."""
    found, state, heard = two_poles(delay, unbiased), np.array([1.0, 0.0]), []
    for _ in range(40 * delay):
        heard.append(np.array(found.gains) @ state)
        state = np.array(found.rows) @ state
    return np.array(heard)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("delay", [1, 2, 3, 8, 16])
def test_its_error_is_that_of_its_kernel_and_no_pair_of_poles_nearby_has_less(delay, unbiased):
    found, boxcar = two_poles(delay, unbiased), np.arange(40 * delay) < delay
    heard = kernel(delay, unbiased)
    assert np.sqrt(((heard - boxcar) ** 2).sum() / delay) == pytest.approx(found.error, abs=1e-9)
    if unbiased:
        assert heard.sum() == pytest.approx(delay)
    elif delay > 2:
        z = found.rows[0][0] + 1j * found.rows[1][0]
        for turn in (1, 0.99, 1.01, np.exp(0.02j), np.exp(-0.02j)):
            powers = (z * turn) ** np.arange(40 * delay)
            basis = np.stack([powers.real, powers.imag], axis=1)
            left = boxcar - basis @ np.linalg.lstsq(basis, boxcar.astype(float))[0]
            assert np.sqrt(left @ left / delay) >= found.error - 1e-9


def test_it_beats_the_pair_at_the_same_memory_and_has_the_limits_of_the_text():
    assert two_poles(16).error < 0.75 * error("pair", 16, Updates())
    assert two_poles(2000, unbiased=False).error == pytest.approx(0.2933, abs=2e-4)
    assert two_poles(2000).error == pytest.approx(0.2955, abs=2e-4)


def test_a_delay_of_no_update_is_refused():
    with pytest.raises(UserError, match="delay is 0"):
        two_poles(0)
