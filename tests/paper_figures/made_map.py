"""The regime map as its measurement writes it, made by hand."""

import json

import pandas as pd

SIZES = {"mlp": (1024, 16, 30_000_000, 60_000), "even": (16, 256, 120_000, 1_000_000)}
LINK = {"bandwidth": 2e9, "latency": 1e-4}
SHARED = {"bandwidth": 4e9, "latency": 1e-4}
# (network, Gbit/s, choice) -> predicted ms, and ms of every round
TIMES = {
    ("mlp", None, "plain"): (20, (20, 20, 22)),
    ("mlp", None, "threads/2"): (11, (10, 10, 13)),
    ("mlp", None, "ddp"): (60, (60, 60, 60)),
    ("mlp", None, "async/stash"): (10, (12, 11, 11)),
    ("mlp", 0.1, "ddp"): (2400, (2500, 2500, 2500)),
    ("mlp", 0.1, "async/stash"): (11, (12, 12, 12)),
    ("even", None, "plain"): (30, (30, 30, 30)),
    ("even", None, "threads/2"): (16, (15, 15, 15)),
    ("even", None, "ddp"): (18, (18, 18, 18)),
    ("even", None, "async/stash"): (17, (16, 16, 16)),
    ("even", 0.1, "ddp"): (26, (25, 25, 25)),
    ("even", 0.1, "async/stash"): (80, (100, 100, 100)),
}


def write(folder, times=TIMES, busy_cores=0.1, quick=False):
    """The files of ``experiments.pipelines.regimes``."""
    (folder / "map").mkdir(parents=True, exist_ok=True)
    predicted, measured = [], []
    for (network, gigabits, variant), (guess, rounds) in times.items():
        width, batch_size, weights, cut = SIZES[network]
        key = {"network": network, "width": width, "batch_size": batch_size, "gigabits": gigabits, "variant": variant}
        sizes = {
            "held_out": network == "even",
            "parameter_bytes": weights,
            "cut_bytes": cut,
            "batches": 10,
            "seconds": guess / 1e3,
        }
        predicted.append(key | sizes)
        measured += [key | {"round": i, "seconds": ms / 1e3} for i, ms in enumerate(rounds)]
    pd.DataFrame(predicted).to_csv(folder / "map" / "predicted.csv", index=False)
    pd.DataFrame(measured).to_csv(folder / "map" / "measured.csv", index=False)
    where = {"commit": "c0ffee", "dirty": False, "busy_cores": busy_cores, "machine": {"link": LINK, "shared": SHARED}}
    where["options"] = {"quick": quick}
    where["links"] = {"0.1": {"bandwidth": 12e6, "latency": 2e-4}}
    (folder / "map" / "provenance.json").write_text(json.dumps(where))
    return folder / "map"
