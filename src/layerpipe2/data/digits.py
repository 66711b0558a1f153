"""scikit-learn's handwritten digits, which ship with it."""

from __future__ import annotations

import numpy as np
import torch

from layerpipe2.data.splits import stratified
from layerpipe2.data.types import Arrays

TEST_FRACTION, SPLIT_SEED = 0.25, 1797


def read_digits() -> Arrays:
    """scikit-learn's digits: 1797 images of 8x8 pixels with levels 0..16, stretched to 0..255.

    They have no published test part: a stratified quarter, chosen by a fixed seed, is the test part.
    """
    from sklearn.datasets import load_digits  # takes a second, and most runs read something else

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    kept, held_out = stratified(torch.from_numpy(labels), TEST_FRACTION, SPLIT_SEED)
    return Arrays(images[kept], labels[kept], images[held_out], labels[held_out])
