"""Where a result comes from: commit, versions, device."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

TRAINING = ("delays.py", "engine", "lab/data", "lab/networks", "lab/runs", "spiking", "stages.py", "strategies")
"""Files and folders of this package on which a run's numbers depend."""
TUNING = (*TRAINING, "lab/tuning")
"""Those on which a study depends."""
_PACKAGES = ("layerpipe2", "numpy", "pytorch-lightning", "scikit-learn", "torch", "torchvision")


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit (None outside a checkout), dirty flag, versions, device and CPU threads, as plain values."""
    commit, dirty = git_state(Path(__file__).parent)
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


@cache
def code_hash(package: Path = Path(__file__).parents[1], parts: tuple[str, ...] = TRAINING) -> str:
    """Hash of names and contents of a package's Python files; by default of those that decide a run's numbers."""
    digest = hashlib.sha256()
    places = [package / part for part in parts]
    for path in sorted(path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


@cache
def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout that holds ``folder``, and whether tracked code differs from it.

    Files under ``results``, ``paper_figures/out`` and ``docs``, ``dvc.lock`` and the README don't count: a reproduction
    rewrites them as it goes.
    """
    try:
        top = _git(folder, "rev-parse", "--show-toplevel").strip()
        commit = _git(folder, "rev-parse", "HEAD").strip()
        outputs = (":!results", ":!paper_figures/out", ":!dvc.lock", ":!README.md", ":!docs")
        changes = _git(Path(top), "status", "--porcelain", "--untracked-files=no", "--", ".", *outputs)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changes.strip())


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


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


def device_name(device: torch.device) -> str:
    """The device in words, as in ``cpu (x86_64)`` or ``NVIDIA H100 80GB HBM3``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"
