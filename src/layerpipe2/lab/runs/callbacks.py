"""Lightning callbacks of a run: epoch table, state after every epoch, progress display, right predictions."""

import math
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from layerpipe2.engine.module import PipelinedModule
from layerpipe2.errors import UserError, integer
from layerpipe2.lab.runs.correct import MOST, Counts
from layerpipe2.lab.runs.records import not_finite, writable_folder
from layerpipe2.lightning import pl
from layerpipe2.pipeline.checkpoint import remove

LAST_CHECKPOINT, PREVIOUS_CHECKPOINT = "last.ckpt", "previous.ckpt"
_METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


class CountCorrect(pl.Callback):
    """Counts the right predictions of every example while a ``Trainer`` tests or predicts in the order of ``targets``.

    The test of one process has the outputs; of several only one has them, before :meth:`Trainer.predict` gives them to
    all.

    Args:
        targets: classes, int64 (N,) or (N, T) with T at most :data:`layerpipe2.lab.runs.correct.MOST`.

    Raises:
        UserError: if an example has more predictions than that.
    """

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets.view(len(targets), -1)
        integer(self.targets.shape[1], "predictions per test example", 1, MOST)
        self._counts: list[Tensor] = []
        self._seen = 0

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Compare the logits (B, classes) or (B, classes, T) of a mini-batch, if this process has those of all."""
        if outputs is not None:
            found = outputs.argmax(1).view(len(outputs), -1)
            mine = self.targets[self._seen : self._seen + len(found)]
            self._counts.append((found == mine).sum(1).to(torch.uint8).cpu())
            self._seen += len(found)

    on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]  # the same arguments

    @property
    def complete(self) -> bool:
        """Whether it has counted all."""
        return self._seen == len(self.targets)

    def counts(self) -> Counts:
        """Right predictions, uint8 (N,)."""
        return torch.cat(self._counts).numpy()


class EpochRecorder(pl.callbacks.Checkpoint):
    """Collects one row of metrics per epoch, and stops the run when a loss isn't finite any more.

    It is a ``Checkpoint`` for its place in the order of the hooks: after the module has logged the epoch's means and
    before a :class:`LastCheckpoint` behind it saves them, so that a resumed run continues the table.

    Attributes:
        rows: ``{"epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy"}``; ``lr`` is the rate of
            the epoch's first mini-batch.
        divergence: where the first loss that isn't finite came from, see
            :meth:`layerpipe2.engine.execution.Execution.where_diverged`; or None.
        train_time_s: seconds in training steps, without validation.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.rows: list[dict[str, Any]] = []
        self.divergence: dict[str, Any] | None = None
        self.train_time_s = 0.0
        self._lr = math.nan
        self._started = 0.0

    @property
    def diverged(self) -> bool:
        """Whether a loss isn't finite."""
        return not_finite(self.rows) is not None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the run that is resumed has diverged."""
        trainer.should_stop = trainer.should_stop or self.diverged

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the learning rate and start the clock."""
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        if pl_module.device.type == "cuda":
            torch.cuda.current_stream(pl_module.device).synchronize()
        self.train_time_s += time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's row; stop if a loss isn't finite."""
        logged = trainer.callback_metrics
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "lr": self._lr}
        row.update({name: float(logged[name]) for name in _METRICS})
        self.rows.append(row)
        if self.diverged:
            self.divergence = cast(PipelinedModule, pl_module).execution.where_diverged()
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {name: getattr(self, name) for name in ("config", "rows", "divergence", "train_time_s")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the table of the run that is resumed.

        Raises:
            UserError: if that run had other settings.
        """
        was = state_dict["config"]
        changed = [name for name, value in self.config.items() if was.get(name) != value]
        if changed:
            differences = ", ".join(f"{name} was {was.get(name)!r}" for name in changed)
            raise UserError(f"checkpoint belongs to a run with other settings ({differences}); resume with those")
        self.rows = list(state_dict["rows"])
        self.divergence, self.train_time_s = state_dict["divergence"], state_dict["train_time_s"]


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Saves the complete state after every epoch and keeps the one before. Must stand behind the recorder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last epoch's checkpoint becomes the previous one, before there is a new last one."""
        last, previous = self.folder / LAST_CHECKPOINT, self.folder / PREVIOUS_CHECKPOINT
        if trainer.is_global_zero and last.exists():
            remove(previous)
            last.rename(previous)
        trainer.save_checkpoint(last)


def find_checkpoint(folder: Path | None, resume: bool, several: bool) -> Path | None:
    """The checkpoint to resume from, if any; several processes write a folder instead of a file.

    Raises:
        UserError: if there is none to resume from, one that would be overwritten, or one of another kind.
    """
    if folder is None:
        if resume:
            raise UserError("nothing to resume from; name the folder of the checkpoint (--checkpoint-dir)")
        return None
    path, previous = writable_folder(folder) / LAST_CHECKPOINT, folder / PREVIOUS_CHECKPOINT
    path = previous if previous.exists() and not path.exists() else path  # ended while it saved
    if path.exists() and path.is_dir() != several:
        writer, how = ("several processes", "under `layerpipe2 launch`") if path.is_dir() else ("one process", "in one")
        raise UserError(f"checkpoint {path} was written by {writer}; go on {how}, or choose another folder")
    if not resume and path.exists():
        raise UserError(f"{path} holds the state of a run; give --resume to go on with it, or choose another folder")
    if resume and not path.exists():
        raise UserError(f"no checkpoint {path} to resume from; start without resuming")
    return path if resume else None


class EpochProgress(pl.Callback):
    """One bar on a terminal; elsewhere a plain line for about every tenth of the run."""

    def __init__(self, epochs: int, label: str) -> None:
        self.epochs, self.label, hidden = epochs, label, not sys.stderr.isatty()
        self._bar = tqdm(total=epochs, desc=label, unit="epoch", leave=False, mininterval=0, disable=hidden)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the validation figures of the epoch."""
        done = trainer.current_epoch + 1
        loss, accuracy = (float(trainer.callback_metrics.get(f"val_{name}", math.nan)) for name in ("loss", "accuracy"))
        text = f"val loss {loss:.4f}, accuracy {accuracy:.2%}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if self._bar.disable and (done % max(1, self.epochs // 10) == 0 or done == self.epochs):
            print(f"{self.label}: epoch {done}/{self.epochs}, {text}", file=sys.stderr, flush=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar, also after an error."""
        self._bar.close()
