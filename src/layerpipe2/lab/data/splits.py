"""Stratified splits that depend on the labels and a seed only."""

import torch
from torch import Tensor

from layerpipe2.engine.frozen_random import frozen_generator
from layerpipe2.errors import UserError, integer, shown
from layerpipe2.lab.data.types import Data, Splits, TensorSplit


def stratified(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out), both ascending: of each class with n images, round(fraction * n) are held out."""
    generator = frozen_generator("split", seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        chosen = generator.permutation(members.numpy())[: round(fraction * len(members))]
        held_out[torch.from_numpy(chosen)] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def split(data: Data, validation_fraction: float, seed: int) -> Splits:
    """Hold out a part of the training images for validation, stratified; the test part is the published one.

    Of a text, random windows are held out.

    Args:
        data: the data set.
        validation_fraction: share of each class's training images to hold out, from 0 up to but not including 1.
        seed: chooses the images; the same seed gives the same split on every machine.

    Raises:
        UserError: a fraction or seed out of range, or a fraction that leaves a class without training images or, above
            0, without validation images.
    """
    integer(seed, "split seed", 0)
    if not isinstance(validation_fraction, int | float) or not 0 <= validation_fraction < 1:
        raise UserError(
            f"validation fraction is {shown(validation_fraction)}; give a number from 0 up to, not including, 1"
        )
    labels = data.y_train if data.y_train.ndim == 1 else torch.zeros(len(data.y_train), dtype=torch.int64)
    kept, held_out = stratified(labels, validation_fraction, seed)
    for part, indices in (("training", kept), ("validation", held_out)):
        counts = labels[indices].bincount(minlength=int(labels.max()) + 1)
        if (part == "training" or validation_fraction) and not counts.all():
            what = f"validation fraction {validation_fraction} leaves a class of {data.name} without {part} images"
            raise UserError(f"{what}; choose a fraction nearer to 0.5")
    train, validation = (TensorSplit(data.x_train[i], data.y_train[i], data.flippable) for i in (kept, held_out))
    return Splits(train, validation, TensorSplit(data.x_test, data.y_test, data.flippable))
