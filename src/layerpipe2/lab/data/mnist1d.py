"""MNIST-1D (Greydanus 2020, arXiv 2011.14439): ten digits drawn as noisy curves of 40 points, computed by its package.

The package draws one sample at a time, which takes seconds, so a copy is kept in the data folder: ``mnist1d.bin``, for
each sample 40 levels and the label, a byte each. What is computed and what is read must have the checksum below.
"""

from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from layerpipe2.engine.files import replaced
from layerpipe2.errors import UserError, install_command, read_file
from layerpipe2.lab.data.types import Arrays

POINTS = 40
"""Points of a curve."""
_TRAIN, _TEST = 20_000, 10_000  # samples
_SIZE = (_TRAIN + _TEST) * (POINTS + 1)  # bytes
_BLAKE2B = "450f7042871b4280312878b56280d4ea"  # of all rows, 16 bytes of it
_RANGE = 5.0  # of the curves, whose values have mean 0 and standard deviation 1


def read_mnist1d(folder: Path) -> Arrays:
    """Images (1, 1, 40), -5 to 5 as levels 0 to 255: 20,000 for training and 10,000 for testing, seed 42.

    They come from the copy in ``folder`` if it is whole; else they are computed, and the copy is written anew if the
    folder lets it. The curves of two machines differ by some 1e-15, and none comes nearer than 6e-9 to where rounding
    turns: the levels are the same everywhere.

    Raises:
        UserError: if the package is missing, or computes other data.
    """
    path = folder / "mnist1d.bin"
    content = b""
    with suppress(OSError, UserError):
        content = read_file(path, _SIZE)
    if not _whole(content):
        content = _computed()
        if not _whole(content):
            what = "the installed mnist1d, numpy and scipy compute other data than those of the published runs"
            raise UserError(f"mnist1d: {what}; `pip install -c constraints.txt mnist1d` in layerpipe2's folder")
        _keep(path, content)
    rows = np.frombuffer(content, np.uint8).reshape(-1, POINTS + 1)
    images, labels = rows[:, None, None, :-1], rows[:, -1].astype(np.int64)
    return Arrays(images[:_TRAIN], labels[:_TRAIN], images[_TRAIN:], labels[_TRAIN:])


def _whole(content: bytes) -> bool:
    """Whether these are the rows of the published runs."""
    return blake2b(content, digest_size=16).hexdigest() == _BLAKE2B


def _computed() -> bytes:
    """The rows that the package's defaults give for so many samples; the global generators that it seeds stay."""
    from layerpipe2.lightning import pl  # takes seconds

    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        what = f"mnist1d: the package {error.name}, which computes the data, is missing"
        raise UserError(f"{what}; {install_command('lab')}") from None
    settings = get_dataset_args()
    settings.num_samples, settings.train_split = _TRAIN + _TEST, _TRAIN / (_TRAIN + _TEST)
    with pl.utilities.seed.isolate_rng(include_cuda=False):
        made = make_dataset(settings)
    curves = np.clip(np.concatenate([made["x"], made["x_test"]]), -_RANGE, _RANGE)
    levels = np.rint(255 / (2 * _RANGE) * (curves + _RANGE))
    return np.column_stack([levels, np.concatenate([made["y"], made["y_test"]])]).astype(np.uint8).tobytes()


def _keep(path: Path, content: bytes) -> None:
    """Write the copy whole or not at all, also beside other processes; one that can't be written is done without."""
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as file:
            file.write(content)
