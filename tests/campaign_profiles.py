"""A campaign small enough to be run within a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.campaign.params import Profile
from experiments.campaign.tasks import Campaign

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "full_scale" / "run.py"
TINY: dict[str, Any] = {
    "settings": {"dataset": "digits", "network": "mlp", "width": 8, "epochs": 1},
    "optimizers": ["sgd"],
    "stages": [3],
    "strategies": ["stash", "latest", "ema-span"],
    "seeds": [0, 1],
    "tuning": {"epochs": 1, "seed": 100},
    "warm_up": {"stages": [3], "strategies": ["ema-span"], "stash_epochs": 0.5},
    "jobs": 1,
}


def write_params(folder: Path, **changes: Any) -> Path:
    """A params.yaml with the one profile ``tiny``."""
    content = {
        "settings": {"batch_size": 128},
        "optimizers": {"sgd": {"optimizer": "sgd", "momentum": 0.0, "rates": [0.05, 0.1]}},
        "report": {"equivalence_margin_points": 5, "significance_level": 0.05},
        "published": ["tiny"],
        "profiles": {"tiny": TINY | changes},
    }
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def campaign(folder: Path, **changes: Any) -> Campaign:
    return Campaign(Profile.from_file(write_params(folder, **changes), "tiny"), folder / "out")
