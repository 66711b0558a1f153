"""One stream of random numbers per stage: dropout that depends on a stage's own past, wherever the stage runs.

A pipeline's stages run at the same time, so no order of draws from one common generator could be kept by all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Neighbouring seeds give unrelated Mersenne twisters; the stride only keeps stages of two seeds apart.
_STRIDE = 1_000_003


class RandomStream:
    """The random numbers of stage ``index``, on the CPU and on its device.

    Args:
        seed: of the whole run. Each stage draws from its own stream.
        index: number of the stage, counted over the whole pipeline.
        device: where the stage runs.
    """

    def __init__(self, seed: int, index: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        devices = [torch.device("cpu"), *([device] if self._cuda else [])]
        self._states = [torch.Generator(d).manual_seed(seed + _STRIDE * (index + 1)).get_state() for d in devices]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within: torch's default generators continue this stream; after: they are as they were."""
        outside = self._swap(self._states)
        try:
            yield
        finally:
            self._states = self._swap(outside)

    def state_dict(self) -> list[Tensor]:
        """States of the generators, CPU first."""
        return [state.clone() for state in self._states]

    def load_state_dict(self, states: list[Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        self._states = [state.cpu() for state in states]

    def _swap(self, states: list[Tensor]) -> list[Tensor]:
        before = [torch.get_rng_state()]
        torch.set_rng_state(states[0])
        if self._cuda is not None:
            before.append(torch.cuda.get_rng_state(self._cuda))
            torch.cuda.set_rng_state(states[1], self._cuda)
        return before
