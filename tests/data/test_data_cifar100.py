"""CIFAR-100 is held against its published counts and channel means."""

from __future__ import annotations

import numpy as np
import pytest

from layerpipe2.data.specs import IMAGES
from layerpipe2.data.types import Arrays
from layerpipe2.data.verify import verified
from layerpipe2.errors import UserError


def _cifar100(gray: int = 0, lost: int = 0) -> Arrays:
    """Arrays of CIFAR-100's size without the memory; ``lost`` training images are missing at the end."""
    train = np.sort(np.tile(np.arange(100), 500))[: 50_000 - lost]
    test = np.sort(np.tile(np.arange(100), 100))
    images = [np.broadcast_to(np.uint8(gray), (len(y), 3, 32, 32)) for y in (train, test)]
    return Arrays(images[0], train, images[1], test)


def test_cifar100_is_held_against_its_published_statistics() -> None:
    spec = IMAGES["cifar100"]
    assert spec.mean == (0.5071, 0.4865, 0.4409)
    counts = r"train class 99 has 499 images, expected 500 \(49999 images in all, expected 50000\)"
    with pytest.raises(UserError, match=counts):
        verified(spec, "a copy", _cifar100(lost=1))
    statistics = r"channel mean of the training images is 0\.5059 0\.5059 0\.5059, expected 0\.5071 0\.4865 0\.4409"
    with pytest.raises(UserError, match=statistics):
        verified(spec, "a copy", _cifar100(gray=129))
