"""Lightning, which comes as two packages of the same content: the one that the user imports.

The classes of ``lightning.pytorch`` (``import lightning``) and ``pytorch_lightning`` are others, and the ``Trainer`` of
one refuses the modules of the other. So Lightning is imported here alone, when a name of layerpipe2 first needs it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning_fabric as fabric
    import pytorch_lightning as pl
elif "lightning" in sys.modules and "pytorch_lightning" not in sys.modules:
    pl, fabric = import_module("lightning.pytorch"), import_module("lightning.fabric")
else:
    pl, fabric = import_module("pytorch_lightning"), import_module("lightning_fabric")

__all__ = ["fabric", "pl", "warn_of_two"]


def warn_of_two() -> None:
    """Say so if both packages are imported: a script that mixes them then meets an error of Lightning's own."""
    if {"lightning", "pytorch_lightning"} <= sys.modules.keys():
        pl.utilities.rank_zero_warn(
            f"layerpipe2: lightning and pytorch_lightning are both imported, and layerpipe2 works with {pl.__name__}; "
            "take the Trainer, callbacks and data modules from there, or import only one of the two, before layerpipe2"
        )
