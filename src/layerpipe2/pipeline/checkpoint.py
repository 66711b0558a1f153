"""Checkpoints by stage: a folder that any number of processes can write together and any other number can read.

``common.pt`` is Lightning's checkpoint without what belongs to stages; ``stage-003.pt`` has stage 3's weights and
buffers, its optimizer and scheduler, its weight history. The folder appears whole, by one rename, or not at all. All
its files bear the mark of their save.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerpipe2.engine.checkpoint_file import BadCheckpoint, read_or_name_older, save
from layerpipe2.engine.checkpoint_file import read as read_file
from layerpipe2.engine.files import sync_folder
from layerpipe2.errors import UserError
from layerpipe2.pipeline.snapshots import LOSS

_COMMON, _MARK = "common.pt", "save"
_BY_STAGE = ("state_dict", "optimizer_states", "lr_schedulers")


def split_by_stage(
    checkpoint: Mapping[str, Any], trained: Mapping[int, bool], last: int
) -> tuple[dict[str, Any], dict[int, Any]]:
    """A process's Lightning checkpoint as what all processes have in common, and a part per stage of its own.

    Args:
        checkpoint: of ``Trainer.dump_checkpoint``; ``pipeline`` is the runner's state.
        trained: stage -> whether it has an optimizer.
        last: number of the network's last stage, with which goes what belongs to none (a loss with buffers).
    """
    common = {name: value for name, value in checkpoint.items() if name not in _BY_STAGE}
    optimizers, schedulers = iter(checkpoint.get("optimizer_states", [])), iter(checkpoint.get("lr_schedulers", []))
    pipeline = dict(checkpoint["pipeline"])
    parts: dict[int, Any] = {}
    for k, has_optimizer in trained.items():
        state, prefix = pipeline["stages"][k], f"stages.{k}."
        own = {n: v for n, v in checkpoint["state_dict"].items() if n.startswith(prefix) or (k == last and of_none(n))}
        buffers = {
            f"loss.{name.removeprefix(LOSS)}" if name.startswith(LOSS) else prefix + name: value
            for name, value in state["buffers"].items()
        }
        parts[k] = {
            "state_dict": own | {name: value for name, value in buffers.items() if name in own},
            "optimizer": next(optimizers, None) if has_optimizer else None,
            "scheduler": next(schedulers, None) if has_optimizer else None,
            "pipeline": {name: value for name, value in state.items() if name != "buffers"},
        }
    common["pipeline"] = {name: value for name, value in pipeline.items() if name != "stages"}
    return common, parts


def of_none(name: str) -> bool:
    """Whether an entry of a module's state belongs to no stage."""
    return not name.startswith("stages.")


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
    folder: Path,
    common: dict[str, Any],
    parts: Mapping[int, Any],
    *,
    mark: str,
    first: bool,
    barrier: Callable[[], None],
) -> None:
    """Every process writes its stages; the ``first`` one makes the folder and, when all are done, puts it in place.

    ``mark`` is the same in all processes and another one at every save.
    """
    part, old = _beside(folder, "part"), _beside(folder, "old")
    if first:
        remove(part)
        part.mkdir(parents=True)
    barrier()
    for k, state in parts.items():
        save(state | {_MARK: [mark, "stage", k]}, _file_of(part, k))
    barrier()
    if first:
        save(common | {_MARK: [mark, "stages", len(_stages_in(part))]}, part / _COMMON)
        remove(old)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        sync_folder(folder.parent)
        remove(old)
    barrier()


def read(folder: Path, stages: Sequence[int] | None = None, *, weights_only: bool = True) -> dict[str, Any]:
    """The checkpoint of a process that owns ``stages`` (by default all), whoever owned them when it was written.

    ``weights_only`` is torch's: take tensors and plain values only. False runs whatever code the files name.

    Raises:
        UserError: if the folder is not there, or has no file for one of the stages, or one that is damaged, that holds
            more than that, or that is of another save.
    """
    if not folder.exists() and _beside(folder, "old").exists():  # killed between the two renames
        folder = _beside(folder, "old")
    return read_or_name_older(folder, lambda one: _read(one, stages if one == folder else None, weights_only))


def _read(folder: Path, stages: Sequence[int] | None, weights_only: bool) -> dict[str, Any]:
    if not (folder / _COMMON).is_file():
        form = f"it is a folder with {_COMMON} and one file per stage"
        raise UserError(f"no checkpoint of a pipeline of several processes in {folder}; {form}")
    common = read_file(folder / _COMMON, weights_only=weights_only)
    try:
        mark, kind, saved = common[_MARK]
        if kind != "stages":
            raise BadCheckpoint(f"checkpoint {folder} is a mixture ({_COMMON} is the file of a stage)")
        wanted, there = range(saved) if stages is None else stages, _stages_in(folder)
        if missing := [k for k in wanted if k not in there]:
            raise UserError(
                f"checkpoint {folder} has no stage {missing[0]}; resume with as many stages as it was saved with"
            )
        parts = {k: read_file(_file_of(folder, k), weights_only=weights_only) for k in wanted}
        strange = next((k for k in wanted if parts[k][_MARK] != [mark, "stage", k]), None)
        joined = join_stages(common, parts)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadCheckpoint(f"checkpoint {folder} lacks what this version saves") from None
    if strange is not None:
        raise BadCheckpoint(f"checkpoint {folder} is a mixture ({_file_of(folder, strange).name} doesn't belong there)")
    return joined


def _stages_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("stage-")) for path in folder.glob("stage-[0-9]*.pt"))


def whole_state_dict(folder: Path | str) -> dict[str, Any]:
    """Weights and buffers of the whole network, for a ``PipelinedModule`` in one process: ``load_state_dict`` takes it.

    Raises:
        UserError: as :func:`read`.
    """
    return dict(read(Path(folder))["state_dict"])


def remove(folder: Path) -> None:
    """Delete a checkpoint, also one that a single process wrote in its place."""
    if folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _file_of(folder: Path, stage: int) -> Path:
    return folder / f"stage-{stage:03d}.pt"


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")
