"""Seconds to a target loss on the page, from tables made by hand: product, intervals, misses, first line, figure."""

import json
import math

import pandas as pd
import pytest

from layerpipe2.errors import UserError
from paper_figures.pipelines.time_to_loss import draw, first_to_loss, headline, load, multiples
from paper_figures.pipelines.time_to_loss import seconds_table as table

SEEDS = range(5)
# network -> strategy -> updates by seed; None: missed
UPDATES = {
    "mlp": {"sequential": (50, 55, 50, 45, 50), "stash": (60, 60, 65, 60, 55), "ema-span": (70, None, 75, 70, 70)},
    "even": {"sequential": (80, 85, 90, 80, 85), "stash": (None, None, None, 90, 90), "ema-span": (90, 95, 90, 90, 90)},
}
# (Gbit/s, variant) -> ms per mini-batch, and by how much a round differs from the next
MS = {
    (None, "plain"): 20,
    (None, "threads/2"): 11,
    (None, "ddp"): 40,
    (None, "1f1b/2"): 16,
    (None, "async/stash"): 13.2,
    (None, "async/ema-span"): 13.2,
    (1.0, "ddp"): 300,
    (1.0, "1f1b/2"): 20,
    (1.0, "async/stash"): 13.2,
    (1.0, "async/ema-span"): 13.2,
}


def write(folder, busy_cores=0.1, updates=UPDATES):
    """The files of ``experiments.pipelines.time_to_loss``: rounds of 10 mini-batches, of which one fills."""
    out = folder / "time_to_loss"
    out.mkdir(parents=True, exist_ok=True)
    runs, tuned, timed, checks = [], [], [], []
    for network, by_strategy in updates.items():
        for strategy, found in by_strategy.items():
            head = {"network": network, "strategy": strategy, "lr": 0.01}
            runs += [head | {"seed": 9, "part": "tuning", "updates": 1}]
            runs += [
                head | {"seed": seed, "part": "confirmation", "updates": n}
                for seed, n in zip(SEEDS, found, strict=True)
            ]
            end = "upper" if strategy == "stash" else None
            tuned.append(head | {"updates": 50, "missed": 0, "at_end": end, "chosen": True})
        for (gigabits, variant), ms in MS.items():
            head = {"network": network, "gigabits": gigabits, "variant": variant}
            fills = int(variant.startswith("async"))
            rounds = [ms / 1e3 * (1 + 0.001 * i) for i in range(3)]
            timed += [head | {"round": i, "batches": 10, "fills": fills, "seconds": s} for i, s in enumerate(rounds)]
            losses = {"simulated_loss": 0.2, "loss": 0.2 + 1e-6}
            checks.append(head | losses | {"seed": 0, "updates": 50, "seconds": 50 * ms / 1e3})
    for name, rows in {"updates": runs, "tuned": tuned, "seconds": timed, "checks": checks}.items():
        pd.DataFrame(rows).to_csv(out / f"{name}.csv", index=False)
    networks = [{"network": network, "target": 0.25} for network in updates]
    design = {"seeds": list(SEEDS), "tuning_seeds": [9], "networks": networks}
    where = {
        "commit": "c0ffee",
        "dirty": False,
        "busy_cores": busy_cores,
        "options": {"rounds": 3, "quick": False},
        "design": design,
    }
    (out / "provenance.json").write_text(json.dumps(where))
    return out


def test_a_missed_target_is_an_infinite_time_and_never_left_out(tmp_path):
    rows = load(write(tmp_path)).summary().set_index(["network", "place", "variant"])
    average, stash = (
        rows.loc["mlp" if name == "ema-span" else "even", "one host", f"async/{name}"] for name in ("ema-span", "stash")
    )
    assert (average["updates"], average["reached"]) == (70, 4)  # the median of five is the third
    assert math.isfinite(average["seconds"])
    assert average["high"] == math.inf
    assert (stash["reached"], stash["seconds"], stash["high"]) == (2, math.inf, math.inf)
    shown = table(load(tmp_path / "time_to_loss"))
    cells = shown[(shown["choice"] == "LayerPipe2, stash") & (shown["place"] == "one host")]
    assert list(cells["seeds that reach it"]) == ["5 of 5", "2 of 5"]
    assert list(cells["seconds to the target (95 % interval)"])[1] == "–"
    assert set(cells["learning rate"]) == {"0.01 (upper end)"}


def test_the_best_of_either_side_are_compared_and_the_first_line_says_who_wins(tmp_path):
    found = load(write(tmp_path))
    leads = found.leads().set_index(["network", "place"])
    near, far = leads.loc["mlp", "one host"], leads.loc["mlp", "1 Gbit/s"]
    assert (near["fastest"], near["peer"], near["ours"]) == ("threads/2", "threads/2", "async/stash")
    assert near["ratio"] == pytest.approx(50 * 11 / (61 * 12))
    assert near["high"] < 1
    assert (far["fastest"], far["peer"], far["ours"]) == ("async/stash", "1f1b/2", "async/stash")
    assert far["ratio"] == pytest.approx(50 * 20 / (61 * 12))
    assert far["low"] > 1
    assert leads.loc["even", "1 Gbit/s"]["ours"] == "async/ema-span"
    assert "On two hosts with 1 Gbit/s an asynchronous pipeline is, of 2 networks, faster for 2." in headline(found)


def test_where_nobody_reaches_the_target_nobody_is_first(tmp_path):
    missed = (None,) * len(SEEDS)
    found = load(write(tmp_path, updates={"mlp": UPDATES["mlp"], "even": dict.fromkeys(UPDATES["even"], missed)}))
    lead = found.leads().set_index(["network", "place"]).loc["even", "one host"]
    assert (lead["ratio"], lead["low"], lead["high"]) == (1, 1, 1)
    assert "Eight equal convolutions (none reached it)" in multiples(found)[0]
    assert "(neither reached the target) over" in first_to_loss(found).evidence[0]
    assert draw(found)


def test_files_that_are_broken_are_one_line_and_missing_ones_none(tmp_path):
    folder = write(tmp_path)
    (folder / "checks.csv").unlink()
    assert load(folder) is None
    broken = {
        ("seconds", "positive"): lambda rows: rows.assign(seconds=0.0),
        ("seconds", "columns"): lambda rows: rows.drop(columns="round"),
        ("updates", "seeds are missing"): lambda rows: rows[rows["strategy"] != "stash"],
        ("tuned", "columns"): lambda rows: rows.iloc[:0],
    }
    for (name, word), change in broken.items():
        write(tmp_path)
        path = folder / f"{name}.csv"
        change(pd.read_csv(path)).to_csv(path, index=False)
        with pytest.raises(
            UserError, match=rf"the trainings to a loss in .* cannot be read \(ValueError: .*{word}.*\); measure"
        ):
            load(folder)
