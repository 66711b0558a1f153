"""Data enter the pipeline in the process with the first stage; the others count mini-batches."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import nullcontext
from itertools import islice
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from layerpipe2.engine.execution import StagedModule
from layerpipe2.engine.random_streams import RandomStream
from layerpipe2.errors import UserError
from layerpipe2.lightning import fabric


class Number(int):
    """Stands for a mini-batch where the ``Trainer``, its callbacks and hooks don't have it."""

    def __getitem__(self, *_: object) -> NoReturn:
        raise UserError(
            "a callback or hook looks into a mini-batch, but several processes read ahead, so that it gets a number "
            "for it; look at or change it in the data loader or data module, or train in one process"
        )

    __setitem__ = __getitem__


class FirstStageLoader:
    """Stands for a user's data loader in the ``Trainer`` of one process.

    Iterating gives the loader's mini-batches in the first process and their numbers in the others. While training, the
    first process needs mini-batches earlier than the ``Trainer`` asks for them: it takes them from
    :class:`ReadAhead`, and the ``Trainer`` counts.

    Args:
        loader: the user's data loader; it must have a length.
        reads: whether this process reads it.

    Raises:
        UserError: if the loader has no length; in evaluation, if it ends before that.
    """

    def __init__(self, loader: Iterable[Any], *, reads: bool) -> None:
        try:
            len(cast(Sized, loader))
        except TypeError:  # a DataLoader has a __len__ that fails if its data set has none
            raise UserError(
                f"a {type(loader).__name__} without a length can't feed a pipeline of several processes, which must "
                "agree on the number of mini-batches; give it a __len__"
            ) from None
        self.loader = loader
        self.reads = reads

    def __len__(self) -> int:
        return len(cast(Sized, self.loader))

    @property
    def sampler(self) -> object:
        """The user's, for the Trainer to set its epoch; none where :class:`ReadAhead` does that, or nobody reads."""
        return getattr(self.loader, "sampler", None) if self.reads else None

    @property
    def batch_sampler(self) -> object:
        """Return the loader's sampler of batches."""
        return getattr(self.loader, "batch_sampler", None) if self.reads else None

    def __iter__(self) -> Iterator[Any]:
        # Begins with the first mini-batch: the Trainer makes an iterator earlier, and a DataLoader's draws numbers.
        yield from _whole(self.loader, len(self)) if self.reads else map(Number, range(len(self)))


class ReadAhead:
    """Mini-batches of epoch after epoch, as the ``Trainer`` would prepare them, before it asks for them.

    What is random about them (a shuffled ``DataLoader``'s order, augmentation) may come from a stream of its own, which
    begins as torch's default generator: a resumed run then draws those again that were in flight. What else draws from
    the default generator (a validation loader's iterator does) no longer changes them, as it would in one process; a
    loader with a generator of its own gives the same mini-batches in both.

    Args:
        module: whose ``Trainer`` has the data; it sees numbers only from here on.
        stream: their own one, or ``None``: the default generator.

    Raises:
        UserError: if the ``Trainer`` has several data loaders; while training, if an epoch ends before its length.
    """

    def __init__(self, module: StagedModule, stream: RandomStream | None) -> None:
        trainer = module.trainer
        data = trainer.train_dataloader
        if not isinstance(data, FirstStageLoader):
            several = "a pipeline of several processes takes one data loader"
            raise UserError(f"training data are a {type(data).__name__}; {several}")
        data.reads = False
        self._module, self._loader, self._stream = module, data.loader, stream
        self._epoch, self._batches = trainer.current_epoch, int(trainer.num_training_batches)
        self._states: dict[int, Tensor] = {}
        self._source: Iterator[Any] = iter(())

    def __next__(self) -> Any:
        with self._stream.active() if self._stream else nullcontext():
            batch = next(self._source, self)
            if batch is self:
                self._begin_epoch()
                batch = next(self._source)
            # As the Trainer prepares it, with the hooks of a data module.
            trainer = self._module.trainer
            batch = trainer.precision_plugin.convert_input(batch)
            batch = self._module._on_before_batch_transfer(batch, dataloader_idx=0)
            return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def random_state(self, epoch: int) -> list[Tensor] | None:
        """State of the stream before ``epoch``, the ``Trainer``'s next one."""
        if self._stream is None:
            return None
        return [self._states[epoch]] if epoch in self._states else self._stream.state_dict()

    def forget(self, epoch: int) -> None:
        """The states before ``epoch`` are not asked for any more."""
        self._states = {number: state for number, state in self._states.items() if number >= epoch}

    def _begin_epoch(self) -> None:
        self._states[self._epoch] = torch.get_rng_state()
        fabric.utilities.data._set_sampler_epoch(self._loader, self._epoch)
        self._source = _whole(self._loader, self._batches)
        self._epoch += 1


def _whole(loader: Iterable[Any], length: int) -> Iterator[Any]:
    """The first ``length`` mini-batches of ``loader``, which other processes count on.

    Raises:
        UserError: if there are fewer.
    """
    found = 0
    for batch in islice(loader, length):
        found += 1
        yield batch
    if found < length:
        raise UserError(
            f"a {type(loader).__name__} of length {length} has given {found} mini-batches only, but several processes "
            "must agree on their number; correct its __len__ (an IterableDataset's?), or give the Trainer "
            f"limit_train_batches={found} or limit_val_batches={found}"
        )


def stream_of_data(state: list[Tensor] | None) -> RandomStream:
    """A stream that goes on from ``state``, or begins as torch's default generator."""
    stream = RandomStream(0, 0, torch.device("cpu"))
    stream.load_state_dict([torch.get_rng_state()] if state is None else state)
    return stream
