"""Records of the benchmark made by hand."""

import json

from layerpipe2.pipeline.timeline import Span, chrome_trace
from paper_figures.pipelines.benchmark import load, pipelines

PEAKS = {"plain": [15e6], "plain/4": [7e6], "threads/2": [15e6], "zero-bubble/2": [8e6, 8e6]}
PEAKS |= {"async/stash": [30e6, 18e6], "async/stash/recompute": [20e6, 18e6], "async/ema-window": [27.6e6, 18e6]}
SPEEDS = {  # over plain training, round by round
    "plain": (1.0, 1.0, 1.0),
    "plain/4": (1.02, 1.0, 0.98),
    "threads/2": (1.6, 1.5, 1.7),
    "gpipe/2": (1.30, 1.32, 1.31),
    "gpipe/4": (1.40, 1.42, 1.41),
    "1f1b/2": (1.31, 1.33, 1.32),
    "1f1b/4": (1.45, 1.44, 1.46),
    "zero-bubble/2": (1.2, 1.2, 1.2),
    "async/stash": (1.90, 1.79, 1.88),
    "async/ema-window": (1.85, 1.86, 1.87),
    "async/stash/recompute": (1.6, 1.6, 1.6),
    "async/ema-window/pipedream": (1.7, 1.7, 1.7),
    "async/ema-window/split": (1.85, 1.87, 1.86),
    "exact": (0.97, 0.96, 0.98),
    "exact/split": (1.10, 1.12, 1.11),
}
CUTS = {"plain": (1.0, 1.0), "async/latest": (1.8, 1.9), "async/latest/groups": (1.4, 1.3)}
COPIES = {"async/stash": lambda delay: delay, "async/ema-window": lambda delay: min(delay, 1)}


def ticks(period, busy, parts=1, batches=18):
    """Events of two processes that compute the given share of every period."""
    found = []
    for rank in range(2):
        events = []
        for batch in range(batches):
            start = (batch + 0.5 * rank) * period
            for part in range(parts):
                begin, length = start + part * period / parts, busy * period / parts
                events += [Span("forward", rank, batch, int(begin * 1e6), int((begin + length / 3) * 1e6))]
                events += [Span("backward", rank, batch, int((begin + length / 3) * 1e6), int((begin + length) * 1e6))]
            end = int((start + period) * 1e6)
            events += [Span("weights", rank, batch, end - 1000, end), Span("wait", rank, batch, end, end + 1000)]
        found.append(events)
    return found


def stage_memory(variant, processes):
    """Rows of a pipeline whose first stages hold copies, a little more than modelled."""
    rows = []
    for stage in range(processes):
        delay = 2 * (processes - 1 - stage)
        history = 1000 * COPIES[variant](delay)
        row = {"parameters": 1000, "optimizer": 1000, "activations": 500 * (delay + 1), "history": history}
        modelled = {f"modelled_{kind}": value for kind, value in row.items()}
        measured = row | {"history": history + (4 if history else 0)}
        head = {"variant": variant, "processes": processes, "stage": stage, "rank": stage, "delay": delay}
        rows.append(head | measured | modelled)
    return rows


def row(variant, speeds, predicted):
    return {
        "variant": variant,
        "predicted_speed_up": predicted,
        "seconds_per_batch": [0.1 / speed for speed in speeds],
        "peak_torch_bytes": PEAKS.get(variant, [12e6, 9e6]),
        "sent_bytes_per_batch": 0 if variant.startswith("plain") else 2_000_000,
        "starts": [0, 3] if variant.endswith("/groups") else [0, 5],
    }


def write(folder, speeds=SPEEDS, quick=False, load=0.0, **changes):
    """A record of every kind, as the benchmark writes them."""
    where = {"commit": "c0ffee", "dirty": False, "busy_cores": load, "cores": 2, "device": "some CPU"}
    where["versions"] = {"torch": "2.13.0"}
    options = {"dataset": "digits", "batch_size": 64, "processes": 2, "rounds": 3, "batches": 40}
    options["quick"] = quick
    spans = {"async/stash": (50, 0.94), "1f1b/4": (65, 0.7, 4), "gpipe/4": (80, 0.6, 4), "exact": (100, 0.5)}
    names = {variant: f"traces/even-{variant.replace('/', '-')}.json" for variant in spans}
    (folder / "traces").mkdir(parents=True, exist_ok=True)
    for variant, path in names.items():
        (folder / path).write_text(chrome_trace(ticks(*spans[variant])))
    common = {"options": options, "provenance": where}
    guesses = {"plain": 1.0, "async/stash": 1.95, "async/ema-window": 1.95, "gpipe/2": 1.33, "exact": 1.0}
    main = common | {
        "network": "even",
        "rows": [row(variant, found, guesses.get(variant)) for variant, found in speeds.items()],
        "memory": [r for processes in (2, 4) for variant in COPIES for r in stage_memory(variant, processes)],
        "traces": names,
    }
    rows = [row(variant, found, 1.9) for variant, found in CUTS.items()]
    cuts = common | {"network": "vgg16", "memory": [], "traces": {}, "rows": rows}
    (folder / "even.json").write_text(json.dumps(main | changes))
    (folder / "vgg16.json").write_text(json.dumps(cuts))


def written(results, **changes):
    """What the page of a folder with such records knows."""
    write(results / "pipelines", **changes)
    return load(results)


def verdicts(known):
    """Verdicts by title."""
    return {verdict.question: verdict for verdict in pipelines.verdicts(pipelines.data(known))}


def page_text(known):
    """The page in Markdown."""
    return pipelines.build(known).text
