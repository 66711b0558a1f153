"""Which test examples a network gets right, small enough for a record.

Two networks that were tested on the same examples are compared example by example: where they are right or wrong
together, which examples happened to be drawn makes no difference. An image counts 0 or 1. Of a text a window counts the
characters that were predicted, since those of one window are not independent of each other.
"""

import base64
import binascii
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerpipe2.errors import UserError

Counts = NDArray[np.uint8]
MOST = 255
"""Predictions of one example that can be counted."""


def packed(counts: Counts) -> str:
    """Text from which :func:`unpacked` makes the counts again: base64 of their zlib-compressed bytes."""
    return base64.b64encode(zlib.compress(counts.tobytes(), 9)).decode()


def unpacked(text: str, examples: int) -> Counts:
    """The counts of ``examples`` examples, uint8 (examples,).

    Raises:
        UserError: if the text holds something else, or more.
    """
    try:
        reader = zlib.decompressobj()
        found = reader.decompress(base64.b64decode(text, validate=True), examples + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UserError(f"test.correct can't be unpacked ({error}); train the run again") from None
    if len(found) != examples or not reader.eof:
        raise UserError(f"test.correct doesn't hold {examples} examples; train the run again")
    return np.frombuffer(found, dtype=np.uint8)


def spread(first: Sequence[Counts], second: Sequence[Counts], predictions: int) -> float:
    """Spread over the examples of the difference in accuracy between two strategies, each a mean over its seeds.

    Args:
        first, second: counts of every seed, all of the same examples.
        predictions: of one example: 1 of an image, the characters of a window.

    Returns:
        Standard deviation, as a fraction; over the square root of the number of examples it is the standard error of
        the difference that comes from the choice of the test examples.
    """
    difference = np.mean(np.stack(first), 0) - np.mean(np.stack(second), 0)
    return float(np.std(difference, ddof=1)) / predictions
