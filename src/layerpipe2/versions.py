"""What has to be the same wherever a training goes on: the code and the versions of the packages below it."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = ("layerpipe2", "numba", "numpy", "pytorch-lightning", "scikit-learn", "torch", "torchvision")


@cache
def code_hash(parts: tuple[str, ...] = ("",), package: Path = Path(__file__).parent) -> str:
    """Hash of names and contents of a package's Python files, or of those in ``parts``, files and folders of it."""
    digest = hashlib.sha256()
    places = [package / part for part in parts]
    for path in sorted(path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


@cache
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a number depends on; None where one isn't installed.

    torch's is its own word, which tells builds apart (``2.13.0+cpu``): package metadata may lack what is behind the +.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found | {"torch": str(torch.__version__)}
