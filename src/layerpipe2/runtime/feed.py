"""Data enter the pipeline in the process with the first stage; the others count mini-batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast

from layerpipe2.errors import UserError


class Feed:
    """Stands for a user's data loader in the ``Trainer`` of one process.

    Iterating gives the loader's mini-batches in the first process and their numbers in the others. While training, the
    first process needs mini-batches earlier than the ``Trainer`` asks for them: it iterates over :meth:`ahead`, and the
    ``Trainer`` over numbers.

    Args:
        loader: the user's data loader; it must have a length.
        reads: whether this process reads it.

    Raises:
        UserError: if the loader has no length.
    """

    def __init__(self, loader: Iterable[Any], *, reads: bool) -> None:
        if not isinstance(loader, Sized):
            raise UserError(f"a {type(loader).__name__} without a length can't feed a pipeline of several processes, "
                            "which must agree on the number of mini-batches; give it a __len__")  # fmt: skip
        self.loader = loader
        self.reads = reads

    def __len__(self) -> int:
        return len(cast(Sized, self.loader))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader) if self.reads else iter(range(len(self)))

    def ahead(self, first_epoch: int, batches: int) -> Iterator[Any]:
        """Mini-batches of epoch after epoch, ``batches`` of each; from here on the ``Trainer`` sees numbers only."""
        self.reads = False
        return self._epochs(first_epoch, batches)

    def _epochs(self, epoch: int, batches: int) -> Iterator[Any]:
        while True:
            self._set_epoch(epoch)
            for _, batch in zip(range(batches), self.loader, strict=False):
                yield batch
            epoch += 1

    def _set_epoch(self, epoch: int) -> None:
        """What Lightning does at an epoch's start: samplers shuffle by its number."""
        inner = getattr(getattr(self.loader, "batch_sampler", None), "sampler", None)
        for sampler in (getattr(self.loader, "sampler", None), inner):
            set_epoch = getattr(sampler, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
