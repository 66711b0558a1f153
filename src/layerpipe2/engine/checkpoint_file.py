"""Files of checkpoints: whole on the disk before they get their name, checked before they are read, never run as code.

``torch.save`` writes a zip archive with a CRC-32 of every member, which ``torch.load`` does not look at: with a flipped
bit a run is resumed to another result. Here every such bit is found or harmless, also in a file of somebody else's.
"""

import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.serialization import get_unsafe_globals_in_checkpoint
from torch.utils.serialization import config as torch_settings

from layerpipe2.engine.files import replaced
from layerpipe2.errors import UserError
from layerpipe2.lightning import fabric, pl

T = TypeVar("T")


class OtherNetwork(UserError, RuntimeError):
    """Weights are those of another network; a RuntimeError as well, as torch raises it."""


class BadCheckpoint(UserError):
    """A checkpoint is damaged, or holds more than tensors and plain values."""


def save(state: Any, path: Path) -> None:
    """Write ``state`` to ``path``: whenever the machine stops, the old content or the new one is there.

    Raises:
        UserError: if it holds what only code could read again; nothing is written then.
    """
    with replaced(path, alone=True) as file:
        with torch_settings.patch("save.compute_crc32", True):  # type: ignore[attr-defined]
            torch.save(_plain(state), file)
        file.flush()
        if unknown := get_unsafe_globals_in_checkpoint(file.name):
            raise UserError(
                f"checkpoint {path} would hold {', '.join(sorted(unknown))}, which only code can read again; keep "
                "tensors and plain values in hparams and in the state of callbacks, schedulers and data modules, or "
                "allow more by torch.serialization.add_safe_globals"
            )


def read(path: Path | str, *, weights_only: bool = True) -> Any:
    """The content of a file, on the CPU.

    Args:
        path: of a file; fsspec's addresses also work.
        weights_only: take tensors and plain values only. False runs whatever code the file names.

    Raises:
        BadCheckpoint: if the file is damaged, or holds more than that.
        UserError: if there is no such file.
    """
    with opened(path) as file:
        check(file, path, weights_only=weights_only)
        try:
            return torch.load(file, map_location="cpu", weights_only=weights_only)
        except Exception as error:
            raise BadCheckpoint(f"checkpoint {path} can't be read ({_shown(error)})") from None


def opened(path: Path | str) -> IO[bytes]:
    """A file that is there, to be read.

    Raises:
        UserError: if it is not, or is a folder or a device.
    """
    files = fabric.utilities.cloud_io.get_filesystem(path)
    if not (Path(path).is_file() if _is_local(path) else files.exists(str(path))):
        raise UserError(f"no checkpoint file {path}; give the path of one that one process wrote")
    return files.open(str(path), "rb")  # type: ignore[no-any-return]


def check(file: IO[bytes], name: Path | str, *, weights_only: bool = True) -> None:
    """Compare the content with its checksums, and look for code without running any; goes back to the file's begin.

    Raises:
        BadCheckpoint: as :func:`read`.
    """
    unknown: list[str] = []
    try:
        with zipfile.ZipFile(file) as archive:
            # torch takes a member that is marked as a folder for an empty one and leaves its tensor uninitialised.
            marked = [one.filename for one in archive.infolist() if one.external_attr or one.compress_type]
            damage = next(iter(marked), None) or archive.testzip()
        if damage is None and weights_only:
            file.seek(0)
            unknown = get_unsafe_globals_in_checkpoint(file)
    except Exception as error:
        damage = str(error) or type(error).__name__
    if damage is not None:
        raise BadCheckpoint(f"checkpoint {name} is damaged ({_shown(damage)})")
    if unknown:
        raise BadCheckpoint(
            f"checkpoint {name} names code ({_shown(', '.join(sorted(unknown)))}), and none of it was run"
        )
    file.seek(0)


def read_or_name_older(path: Path, reading: Callable[[Path], T]) -> T:
    """``reading(path)``; if that checkpoint is bad, the error names the newest good one beside it.

    Raises:
        UserError: as ``reading`` does.
    """
    try:
        return reading(path)
    except BadCheckpoint as error:
        beside = [p for p in path.parent.glob(f"*{path.suffix}") if p != path and p.is_dir() == path.is_dir()]
        for other in sorted(beside, key=lambda p: p.stat().st_mtime, reverse=True):
            with suppress(UserError):
                reading(other)
                break
        else:
            raise UserError(f"{error}; delete it and start without resuming") from None
        raise UserError(f"{error}; take {other}, which is intact, in its place") from None


class CheckpointFile(pl.plugins.TorchCheckpointIO):
    """What a ``Trainer`` saves and loads by itself, by :func:`save` and :func:`read`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a file; one that is not on this machine's disks as Lightning does."""
        if storage_options is None and _is_local(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            save(checkpoint, Path(path))
        else:
            super().save_checkpoint(_plain(checkpoint), path, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a file; ``weights_only`` is True unless it is given as False."""

        def reading(path: Path | str) -> dict[str, Any]:
            checkpoint = read(path, weights_only=weights_only is not False)
            if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
                raise UserError(f"{path} is no checkpoint of a Trainer; give one that it saved")
            return checkpoint

        return read_or_name_older(Path(path), reading) if _is_local(path) else reading(path)


def guard(strategy: pl.strategies.Strategy) -> None:
    """Have a ``Trainer`` save and load by :class:`CheckpointFile`; a plugin of the user's own stays."""
    files: Any = strategy.checkpoint_io
    if type(files) is pl.plugins.TorchCheckpointIO:
        strategy.checkpoint_io = CheckpointFile()
    elif type(getattr(files, "checkpoint_io", None)) is pl.plugins.TorchCheckpointIO:  # within an AsyncCheckpointIO
        files._checkpoint_io = CheckpointFile()


class CheckedModule(pl.LightningModule):
    """A module whose checkpoints are checked before they are loaded."""

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state as torch's method does.

        Raises:
            OtherNetwork: in one line, with the first weights that don't fit.
        """
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            first = str(error).splitlines()[1].strip().rstrip(". ")
            raise OtherNetwork(
                f"the weights are those of another network ({first[:300]}); give the stages as they were made for its "
                "training"
            ) from None

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: Any, *args: Any, weights_only: bool | None = None, **kwargs: Any
    ) -> Self:
        """Load as Lightning does, but for ``weights_only``, which is True unless it is given as False.

        Raises:
            UserError: if the file is damaged, or holds more than tensors and plain values; if it is of version 0.1,
                which had another name for a setting that must be known.
        """
        safe = weights_only is not False
        named = isinstance(checkpoint_path, str | Path)
        with opened(checkpoint_path) if named else nullcontext(checkpoint_path) as file:
            check(file, checkpoint_path if named else "file", weights_only=safe)
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, weights_only=safe, **kwargs)  # type: ignore[misc]
        except TypeError:
            saved = read(checkpoint_path, weights_only=safe).get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}) if named else {}
            if "strategy" in kwargs or "history" not in saved:
                raise
            raise UserError(
                f"checkpoint {checkpoint_path} calls the strategy 'history', as version 0.1 did; give "
                f"load_from_checkpoint strategy='{_shown(saved['history'])}'"
            ) from None


def use_plain_numbers(optimizer: Optimizer, scheduler: LRScheduler | None = None) -> None:
    """Make scalars of numpy among the settings Python's, as a resume does: the two kinds are rounded differently."""
    for group in optimizer.param_groups:
        group.update({name: _plain(value) for name, value in group.items() if isinstance(value, np.generic | tuple)})
    if scheduler is not None:
        state = scheduler.state_dict()
        if repr(plain := _plain(state)) != repr(state):
            scheduler.load_state_dict(plain)


def _plain(value: Any) -> Any:
    """Scalars of numpy in dictionaries, lists and tuples as Python's, paths as text; the rest stays what it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if type(value) in (dict, OrderedDict, Counter) and not hasattr(value, "_metadata"):  # a module's state_dict has it
        return type(value)({_plain(key): _plain(item) for key, item in value.items()})
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _is_local(path: Path | str) -> bool:
    return "://" not in str(path)


def _shown(text: object) -> str:
    """Shorten a text to one line that a terminal can show, whatever a file says."""
    return ascii((str(text).strip() or type(text).__name__).splitlines()[0])[1:-1][:160]
