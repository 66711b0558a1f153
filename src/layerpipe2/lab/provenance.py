"""Where a result comes from: commit, versions, device."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

from layerpipe2.engine.device import device_name
from layerpipe2.versions import versions

TRAINING = (
    "compiling.py",
    "delays.py",
    "engine",
    "lab/data",
    "lab/networks",
    "lab/runs",
    "lightning.py",
    "optim.py",
    "spiking",
    "stages.py",
    "strategies",
)
"""Files and folders of this package on which a run's numbers depend."""
TUNING = (*TRAINING, "cli/own.py", "cutting", "lab/judging/objectives.py", "lab/own", "lab/tuning")
"""Those on which a study depends."""


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
