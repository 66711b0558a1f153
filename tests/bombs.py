"""Files that run code when they are unpickled: they make a folder that tests look for."""

import os
import pickle
from pathlib import Path

import torch


class Bomb:
    """Unpickled, it makes the folder ``crater``."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self):
        return os.mkdir, (str(self.crater),)


def mine(path: Path, crater: Path, kind: str = "added") -> None:
    """Put a bomb into the file: ``added`` to its content, or ``alone``, as torch saved before it had archives."""
    if kind == "added":
        torch.save(torch.load(path, weights_only=True) | {"bomb": Bomb(crater)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(crater)))


def explodes(path: Path, crater: Path) -> bool:
    """Whether the file runs code when it is read carelessly; removes the crater."""
    if path.read_bytes()[:2] == b"PK":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    exploded = crater.exists()
    crater.rmdir()
    return exploded
