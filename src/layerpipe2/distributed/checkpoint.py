"""Checkpoints by stage: a folder that any number of processes can write together and any other number can read.

``common.pt`` is Lightning's checkpoint without what belongs to stages; ``stage-003.pt`` has stage 3's weights and
buffers, its optimizer and scheduler, its weight history. The folder appears whole, by one rename, or not at all.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from layerpipe2.errors import UserError

_COMMON = "common.pt"
_BY_STAGE = ("state_dict", "optimizer_states", "lr_schedulers")


def split_by_stage(checkpoint: Mapping[str, Any], trained: Mapping[int, bool]) -> tuple[dict[str, Any], dict[int, Any]]:
    """A process's Lightning checkpoint as what all processes have in common, and a part per stage of its own.

    Args:
        checkpoint: of ``Trainer.dump_checkpoint``; ``pipeline`` is the runner's state.
        trained: stage -> whether it has an optimizer.
    """
    common = {name: value for name, value in checkpoint.items() if name not in _BY_STAGE}
    optimizers, schedulers = iter(checkpoint.get("optimizer_states", [])), iter(checkpoint.get("lr_schedulers", []))
    pipeline = dict(checkpoint["pipeline"])
    parts: dict[int, Any] = {}
    for k, has_optimizer in trained.items():
        state, prefix = pipeline["stages"][k], f"stages.{k}."
        own = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
        buffers = {prefix + name: value for name, value in state["buffers"].items()}
        parts[k] = {
            "state_dict": own | {name: value for name, value in buffers.items() if name in own},
            "optimizer": next(optimizers, None) if has_optimizer else None,
            "scheduler": next(schedulers, None) if has_optimizer else None,
            "pipeline": {name: value for name, value in state.items() if name != "buffers"},
        }
    common["pipeline"] = {name: value for name, value in pipeline.items() if name != "stages"}
    return common, parts


def join_stages(common: dict[str, Any], parts: Mapping[int, Any]) -> dict[str, Any]:
    """The Lightning checkpoint of a process that owns the stages of ``parts``; undoes :func:`split_by_stage`."""
    own = list(parts.values())
    return common | {
        "state_dict": {name: value for part in own for name, value in part["state_dict"].items()},
        "optimizer_states": [part["optimizer"] for part in own if part["optimizer"] is not None],
        "lr_schedulers": [part["scheduler"] for part in own if part["scheduler"] is not None],
        "pipeline": common["pipeline"] | {"stages": {k: part["pipeline"] for k, part in parts.items()}},
    }


def write(
    folder: Path, common: dict[str, Any], parts: Mapping[int, Any], *, first: bool, barrier: Callable[[], None]
) -> None:
    """Every process writes its stages; the ``first`` one makes the folder and, when all are done, puts it in place."""
    part, old = _beside(folder, "part"), _beside(folder, "old")
    if first:
        remove(part)
        part.mkdir(parents=True)
    barrier()
    for k, state in parts.items():
        _save(state, part / f"stage-{k:03d}.pt")
    barrier()
    if first:
        _save(common, part / _COMMON)
        remove(old)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        remove(old)
    barrier()


def read(folder: Path, stages: list[int], *, weights_only: bool = False) -> dict[str, Any]:
    """The checkpoint of a process that owns ``stages``, whoever owned them when it was written.

    ``weights_only`` is torch's: refuse whatever is no tensor or plain value, such as a learning rate that numpy made.

    Raises:
        UserError: if the folder is not there, or has no file for one of the stages.
    """
    if not folder.exists() and _beside(folder, "old").exists():  # killed between the two renames
        folder = _beside(folder, "old")
    if not (folder / _COMMON).is_file():
        form = f"it is a folder with {_COMMON} and one file per stage"
        raise UserError(f"no checkpoint of a pipeline of several processes in {folder}; {form}")
    parts = {}
    for k in stages:
        path = folder / f"stage-{k:03d}.pt"
        if not path.is_file():
            raise UserError(f"checkpoint {folder} has no stage {k}; resume with as many stages as it was saved with")
        parts[k] = torch.load(path, map_location="cpu", weights_only=weights_only)
    return join_stages(torch.load(folder / _COMMON, map_location="cpu", weights_only=weights_only), parts)


def whole_state_dict(folder: Path | str) -> dict[str, Any]:
    """Weights and buffers of the whole network, for a ``PipelinedModule`` in one process: ``load_state_dict`` takes it.

    Raises:
        UserError: if there is no checkpoint.
    """
    stages = sorted(int(path.stem.removeprefix("stage-")) for path in Path(folder).glob("stage-*.pt"))
    return dict(read(Path(folder), stages)["state_dict"])


def remove(folder: Path) -> None:
    """Delete a checkpoint, also one that a single process wrote in its place."""
    if folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def _save(state: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
