"""``layerpipe2 info``."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layerpipe2.cli.options import read_options
from layerpipe2.data import DATASETS, load
from layerpipe2.engine.device import resolve_device
from layerpipe2.history import STRATEGIES, Strategy
from layerpipe2.networks import NETWORKS, NetworkInfo
from layerpipe2.provenance import device_name, git_state, versions
from layerpipe2.runs.config import RunConfig


def run(options: argparse.Namespace) -> None:
    """Print names that can be used, the data that is found, device, threads and versions.

    Raises:
        UserError: if the data or the device isn't there.
    """
    if options.schema:
        print(json.dumps(schema(), indent=2))
        return
    config = read_options(RunConfig, options)
    print(_listed("networks", NETWORKS))
    print(_listed("strategies (every ema-* also with -raw)", STRATEGIES))
    print(f"data sets: {', '.join(DATASETS)}\n")
    device = resolve_device(config.device)
    root = Path(config.data_root) if config.data_root else None
    data = load(config.dataset, root, download=options.download, announce=print)
    shape = " x ".join(map(str, data.input_shape))
    what = "images" if data.mean else "windows of text"
    sizes = f"{len(data.y_train)} + {len(data.y_test)} {what}, {shape}, {data.num_classes} classes"
    print(f"{data.name}: {sizes}, verified")
    commit, dirty = git_state(Path(__file__).parent)
    print(f"\ndevice: {device_name(device)}, {torch.get_num_threads()} CPU threads available")
    print(f"commit: {commit or 'not a checkout'}{' (changed since)' if dirty else ''}")
    print("versions: " + ", ".join(f"{name} {version or 'missing'}" for name, version in versions().items()))


def schema() -> dict[str, Any]:
    """JSON schema of a run's settings, with the names of the tables as examples: some stand for families of names."""
    found = RunConfig.model_json_schema()
    for field, table in (("dataset", DATASETS), ("network", NETWORKS), ("strategy", STRATEGIES)):
        found["properties"][field]["examples"] = list(table)
    return found


def _listed(title: str, entries: Mapping[str, NetworkInfo | Strategy]) -> str:
    width = max(map(len, entries))
    return "\n".join([f"{title}:", *(f"  {name:{width}}  {row.description}" for name, row in entries.items()), ""])
