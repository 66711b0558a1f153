"""Data sets, whole in memory: found, verified, split and served as batches on the training device.

`load` finds a data set and checks that it is the published one, `split` makes train, validation and test parts,
`BatchLoader` turns a part into batches. `layerpipe2.lab.data.loading` documents where images are looked for,
`layerpipe2.lab.data.text` what the text is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from layerpipe2.lab.data.loading import DATASETS, describe, load
from layerpipe2.lab.data.specs import IMAGES
from layerpipe2.lab.data.text import TEXTS
from layerpipe2.lab.data.types import Data, TensorSplit

if TYPE_CHECKING:
    from layerpipe2.lab.data.batches import BatchLoader
    from layerpipe2.lab.data.splits import split

__all__ = ["DATASETS", "IMAGES", "TEXTS", "BatchLoader", "Data", "TensorSplit", "describe", "load", "split"]

_HOMES = {"BatchLoader": "batches", "split": "splits"}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use: torch takes seconds, and missing data is told without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layerpipe2.lab.data' has no attribute '{name}'")
    return getattr(import_module(f"layerpipe2.lab.data.{_HOMES[name]}"), name)
