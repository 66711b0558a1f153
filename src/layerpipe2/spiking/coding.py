"""What a spiking network receives over time: images (N, C, H, W) -> (T, N, C, H, W).

Rate and latency coding see an image's own range of values: intensities are ``(x - min) / (max - min)``. So one shift
and scale for the whole image changes nothing, but for rounding; a normalisation that differs by channel does. Both are
functions of the image and a seed alone, as if it were coded once and for all: the same spikes in every epoch, batch,
process and after every resumption.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from layerpipe2.errors import UserError

Coding = Callable[[Tensor, int, int], Tensor]
_WORD = 2**32 - 1


def static(x: Tensor, steps: int, seed: int) -> Tensor:
    """Give the image itself as a constant current in every step; takes no memory."""
    return x.expand(steps, *x.shape)


def rate(x: Tensor, steps: int, seed: int) -> Tensor:
    """Give a spike in each step with the pixel's intensity for its probability.

    The random numbers are a hash of the seed, the image, the pixel and the step: as good as independent, and with no
    state that a process or a checkpoint would have to know.
    """
    p = _intensity(x).flatten(1)
    count, pixels = p.shape
    place = torch.arange(steps * pixels, device=x.device).view(steps, 1, pixels)
    # 256 k / range is no half for ranges up to 255: rounding changes no image.
    number = (p.float() * 256).round().long()
    image = (number * _hashed(torch.arange(pixels, device=x.device) ^ seed)).sum(1) & _WORD
    drawn = _hashed(_hashed(place ^ _hashed(image ^ seed).view(1, count, 1)))
    return (drawn.double() < p.double() * 2**32).to(x.dtype).view(steps, *x.shape)


def latency(x: Tensor, steps: int, seed: int) -> Tensor:
    """Give one spike per pixel in step floor((1 - intensity) T), the brighter the earlier, and none at 0."""
    at = ((1 - _intensity(x).float()) * steps).long()
    return (at == torch.arange(steps, device=x.device).view(-1, *[1] * x.ndim)).to(x.dtype)


def columns(x: Tensor, steps: int, seed: int) -> Tensor:
    """Give the image column by column, (W, N, C, H, 1): its width is time, as in a spectrogram.

    Raises:
        UserError: if the images are not ``steps`` columns wide.
    """
    if x.shape[-1] != steps:
        raise UserError(f"images of {x.shape[-1]} columns for {steps} time steps; with coding 'columns' give as many")
    return x.movedim(-1, 0).unsqueeze(-1)


CODINGS: dict[str, Coding] = {"static": static, "rate": rate, "latency": latency, "columns": columns}
"""Name -> (images, number of time steps, seed) -> what arrives over time."""


def _intensity(x: Tensor) -> Tensor:
    """Scale each image from 0 to 1; all zeros if it is of one value."""
    pixels = x.flatten(1)
    low, high = pixels.amin(1, keepdim=True), pixels.amax(1, keepdim=True)
    return ((pixels - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)).view(x.shape)


def _hashed(x: Tensor) -> Tensor:
    """Mix the low 32 bits of an integer till they look random: Wellons' low-bias hash (hash-prospector)."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = ((x ^ (x >> shift)) * factor) & _WORD
    return x ^ (x >> 15)
