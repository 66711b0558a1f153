"""Random numbers that stay what they are, whatever version of a library draws them."""

import numpy as np


def frozen_generator(purpose: str, *key: int) -> np.random.RandomState:
    """Generator whose stream is a function of ``purpose`` and the integers ``key`` (each at least 0) for good.

    NumPy promises that the streams of ``RandomState``, its bit generators and ``SeedSequence`` never change (NEP 19).
    ``numpy.random.Generator`` and ``torch.Generator`` come without that promise.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([*purpose.encode(), *key])))
