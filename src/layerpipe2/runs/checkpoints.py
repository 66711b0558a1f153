"""The state of a run on disk: saved after every epoch, found again to go on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from layerpipe2.engine.module import PipelinedModule
from layerpipe2.errors import UserError
from layerpipe2.runs.records import writable_folder

LAST_CHECKPOINT = "last.ckpt"


class LastCheckpoint(Checkpoint):
    """Saves the complete state after every epoch as ``path``, atomically. Must stand behind the recorder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the last epoch's checkpoint."""
        cast(PipelinedModule, pl_module).execution.save_checkpoint(self.path)


def find_checkpoint(folder: Path | None, resume: bool, several: bool) -> Path | None:
    """The checkpoint to resume from, if any; several processes write a folder instead of a file.

    Raises:
        UserError: if there is none to resume from, one that would be overwritten, or one of another kind.
    """
    if folder is None:
        if resume:
            raise UserError("nothing to resume from; name the folder of the checkpoint (--checkpoint-dir)")
        return None
    path = writable_folder(folder) / LAST_CHECKPOINT
    if path.exists() and path.is_dir() != several:
        writer, how = ("several processes", "under `layerpipe2 launch`") if path.is_dir() else ("one process", "in one")
        raise UserError(f"checkpoint {path} was written by {writer}; go on {how}, or choose another folder")
    if not resume and path.exists():
        raise UserError(f"{path} holds the state of a run; give --resume to go on with it, or choose another folder")
    if not resume:
        return None
    if not path.exists():
        raise UserError(f"no checkpoint {path} to resume from; start without resuming")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path} can't be read; delete it and start without resuming")
    return path
