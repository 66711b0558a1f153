"""``layerpipe2 info``."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from layerpipe2.cli.console import print_json
from layerpipe2.engine.device import resolve_device
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import DATASETS, load
from layerpipe2.lab.networks import NETWORKS, NetworkInfo
from layerpipe2.lab.provenance import provenance
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.strategies import STRATEGIES, NamedStrategy


def run(options: argparse.Namespace) -> None:
    """Print names that can be used, the data that is found, device, threads and versions.

    Raises:
        UserError: if the data or the device isn't there.
    """
    if options.schema:
        print(json.dumps(schema(), indent=2))
        return
    config = read_run(options)
    if options.json:
        machine = provenance(resolve_device(config.device))
        print_json(_names() | {"dataset": _data(config, options, partial(print, file=sys.stderr))} | machine)
        return
    print(_listed("networks", NETWORKS))
    print(_listed("strategies (every ema-* also with -raw)", STRATEGIES))
    print(f"data sets: {', '.join(DATASETS)}\n")
    machine = provenance(resolve_device(config.device))
    data = _data(config, options, print)
    shape = " x ".join(map(str, data["input_shape"]))
    sizes = "{train} + {test} {kind}, {shape}, {classes} classes".format_map(data | {"shape": shape})
    print(f"{data['name']}: {sizes}, verified")
    print("\ndevice: {device}, {threads} CPU threads available".format_map(machine))
    print(f"commit: {machine['commit'] or 'not a checkout'}{' (changed since)' if machine['dirty'] else ''}")
    print("versions: " + ", ".join(f"{name} {one or 'missing'}" for name, one in machine["versions"].items()))


def _names() -> dict[str, Any]:
    tables: dict[str, Mapping[str, NetworkInfo | NamedStrategy]] = {"networks": NETWORKS, "strategies": STRATEGIES}
    described = {what: {name: row.description for name, row in table.items()} for what, table in tables.items()}
    return described | {"datasets": list(DATASETS)}


def _data(config: RunConfig, options: argparse.Namespace, announce: Callable[[str], None]) -> dict[str, Any]:
    """What is known of the data set, once it is loaded and verified; ``train`` and ``test`` count images or windows."""
    data = load(config.dataset, config.data_root, download=options.download, announce=announce)
    return {
        "name": data.name,
        "train": len(data.y_train),
        "test": len(data.y_test),
        "kind": "images" if data.mean else "windows of text",
        "input_shape": list(data.input_shape),
        "classes": data.num_classes,
    }


def schema() -> dict[str, Any]:
    """JSON schema of a run's settings, with the names of the tables as examples: some stand for families of names."""
    found = RunConfig.model_json_schema()
    for field, table in (("dataset", DATASETS), ("network", NETWORKS), ("strategy", STRATEGIES)):
        found["properties"][field]["examples"] = list(table)
    return found


def _listed(title: str, entries: Mapping[str, NetworkInfo | NamedStrategy]) -> str:
    width = max(map(len, entries))
    return "\n".join([f"{title}:", *(f"  {name:{width}}  {row.description}" for name, row in entries.items()), ""])
