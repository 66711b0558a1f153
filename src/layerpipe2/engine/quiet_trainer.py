"""Lightning without what it prints, and ended by Ctrl-C as any other program."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from layerpipe2.lightning import pl


@contextmanager
def running_lightning(*expected: str) -> Iterator[None]:
    """Within, Lightning doesn't warn of what is ``expected`` (patterns), and Ctrl-C is a ``KeyboardInterrupt``."""
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 uses a part of torch's pytree that torch 2.13 is about to change.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
            for message in expected:
                warnings.filterwarnings("ignore", message=message)
            yield
    except SystemExit:  # what Lightning makes of Ctrl-C, after its own clean-up
        raise KeyboardInterrupt from None


def quiet_trainer(
    epochs: int,
    device: torch.device,
    callbacks: list[pl.Callback],
    strategy: pl.strategies.Strategy | None = None,
    limits: tuple[int | None, int | None] = (None, None),
    loggers: Sequence[pl.loggers.Logger] = (),
) -> pl.Trainer:
    """A trainer that prints nothing; ``limits`` cut its epochs: training, validation batches. -1: endless epochs."""
    logging.getLogger(pl.__name__).setLevel(logging.WARNING)  # its banner
    return pl.Trainer(
        strategy=strategy or "auto",
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=callbacks,
        logger=list(loggers),
        log_every_n_steps=1 if loggers else None,  # else Lightning warns of epochs shorter than 50 mini-batches
        enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_train_batches=limits[0],
        limit_val_batches=limits[1],
    )
