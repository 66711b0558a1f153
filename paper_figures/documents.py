"""What README.md and docs say of results: made from the records, and put between two markers per section.

The artifact appendix, docs/artifact.md, says what must come out and by how much a new run may differ. There are three
kinds of values:

- exact: computed without chance; any other value is a fault.
- a mean over n seeds with standard deviation s: another CPU or another version rounds differently, after which runs
  part like runs of other seeds. So the tolerance is the 95 % interval of the difference between two such means,
  t s sqrt(2 / n), and at least one test image.
- measured on the machine: only the committed range is given.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.designs import pipeline_aware
from layerpipe2.lab.looks import ordered
from layerpipe2.lab.runs.records import write_text
from layerpipe2.strategies import find_strategy
from paper_figures.accuracy.assay import in_place_of_a_verdict
from paper_figures.page import ROOT, fill, report
from paper_figures.text import dataset_label, markdown, network_label

REMEDY = "python -m paper_figures.build readme"


def update(path: Path, sections: Mapping[str, str], *, check: bool) -> None:
    """Put every section between its markers in the file at ``path``, or with ``check`` only compare.

    Raises:
        UserError: if the file can't be read, lacks a marker, or (``check``) is out of date.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{path}' cannot be read ({error}); give its path with --readme or its folder with --docs"
        ) from None
    new = old
    for name, content in sections.items():
        new = _with_section(new, name, content, path)
    if new != old:
        if check:
            raise UserError(f"results in '{path}' are not those of the records; run: {REMEDY}")
        write_text(path, new)


def markers(name: str) -> tuple[str, str]:
    """The two lines between which the section called ``name`` stands."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _with_section(text: str, name: str, content: str, path: Path) -> str:
    begin, end = markers(name)
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in after or end in before:
        raise UserError(f"'{path}' must contain '{begin}' and, after it, '{end}', once each; add the two lines")
    return f"{before}{begin}\n{content}{end}{after}"


def results(known: Mapping[str, Any], evidence: Mapping[str, str], out: str, docs: str) -> str:
    """The section on the default study: the question, answers in words, a picture, and a verdict on every claim.

    Args:
        known: what the report's parts ask for.
        evidence: claim -> one line, as in :func:`claims`.
        out: path of the report's folder from the document.
        docs: path of the documentation from there, with its slash.
    """
    data = report.data(known)
    rows = [
        (f"[{one.key}]({out}/report/{one.key}.md)", one.question, one.word_and_caveat, evidence[one.key])
        for one in report.verdicts(data)
        if one.key in evidence
    ]
    content = {name: data[name] for name in ("answers", "in_short")} | {
        "claims": pd.DataFrame(rows, columns=["claim", "statement", "verdict", "evidence"]),
        "dataset": dataset_label(data["records"].dataset),
        "docs": docs,
        "out": out,
        "pictured": "accuracy_and_copies" in report.drawings(data),
        "runs": len(data["records"].all_runs),
    }
    return fill(ROOT / "readme.md", content)


REPRODUCE, THEORY = "make reproduce", "python -m experiments.theory"
SECONDS = {REPRODUCE: 520, THEORY: 96}
"""Wall time of a command, each measured once (2026-12-02) on two cores of an Intel Xeon that other work shared; that of
``make reproduce`` holds the installation and all 260 runs."""
COMMANDS = dict.fromkeys(("C2", "C3", "C4", "C7"), THEORY)
"""Claim -> the command that makes its expected value, where it needs no training; else :data:`REPRODUCE`."""
PROCESSES = 2
"""Processes side by side in which the committed runs were trained."""


Row = tuple[str, ...]


def tolerance(sd: float, n: int, least: float) -> float:
    """How far apart two means over n seeds may lie, in the unit of ``sd``; at least ``least``."""
    return max(float(stats.t.ppf(0.975, n - 1)) * sd * math.sqrt(2 / n), least)


def claims(results: Path, out: Path) -> Iterator[Row]:
    """A row for each claim: verdict, what is counted or measured, tolerance."""
    verdicts = json.loads((out / "verdicts.json").read_text(encoding="utf-8"))
    proofs = pd.read_csv(results / "theory" / "proofs.csv")
    proofs = proofs[proofs["convention"] == "layerpipe2"]
    every, grouped = proofs[proofs["group_size"] == 1], proofs[proofs["group_size"] > 1]
    memory = pd.read_csv(out / "tables" / "memory.csv")
    points = "the ± beside each value"
    stash = memory[memory["strategy"] == "stash"]
    image = 100 / pd.read_csv(results / "runs.csv")["test_images"].iloc[0]
    differences = _differences(pd.read_csv(out / "tables" / "assay_rules.csv"), image)
    found = {
        "C1": (_stages_off_the_law(pd.read_csv(results / "stages.csv")), "exact"),
        "C2": (
            f"{_holding(every, 'delay law')}: with one unit per stage, the stages behind it alone set a delay",
            "exact",
        ),
        "C3": (f"{_holding(grouped, 'groups')}: with several units per stage, all of them have its delay", "exact"),
        "C4": (f"{proofs['holds'].sum()} of {len(proofs)} proofs about the derived delays hold", "exact"),
        "C5": (_most_copies(stash), "exact"),
        "C6": (differences, points),
        "C7": (_efficient(pd.read_csv(results / "theory" / "partitions.csv")), "exact"),
        "C8": ("the values of C6, by kind of network", points),
    }
    for claim, (value, allowed) in found.items():
        yield claim, str(verdicts[claim]), value, allowed


def accuracies(results: Path, out: Path) -> Iterator[Row]:
    """Test accuracy at each network's deepest pipeline, and without a pipeline."""
    table = pd.read_csv(out / "tables" / "accuracy.csv")
    image = 100 / pd.read_csv(results / "runs.csv")["test_images"].iloc[0]
    for network, rows in table.groupby("network", sort=False):
        shown = rows[rows["stages"].isin([1, rows["stages"].max()])].set_index("strategy")
        for strategy in ordered(shown.index):
            row, cells = shown.loc[strategy], ("–", "–")  # of fewer than two completed runs
            if row["n"] > 1:
                cells = (f"{row['mean']:.2f} %", f"± {tolerance(row['sd'], row['n'], image):.2f}")
            yield network_label(str(network)), str(row["stages"]), find_strategy(strategy).label, *cells


def reconstructions(results: Path) -> Iterator[Row]:
    """Relative error of the reconstructed weights at each network's largest delay."""
    table = pd.read_csv(results / "reconstruction.csv")
    for network, rows in table.groupby("network", sort=False):
        deepest = rows[rows["delay"] == rows["delay"].max()].groupby("strategy")["relative_error"]
        for strategy in map(find_strategy, ordered(deepest.groups)):
            if strategy.family in ("average", "pair") and not strategy.raw:
                errors = deepest.get_group(strategy.name)
                allowed = tolerance(errors.std(), len(errors), 0.001)
                where = network_label(str(network)), str(rows["delay"].max()), strategy.label
                yield *where, f"{errors.mean():.3f}", f"± {allowed:.3f}"


def confirmed(out: Path) -> Iterator[Row]:
    """Of the evidence, with each strategy's own rate: the latest weights and the averages that follow the delay."""
    path = out / "evidence" / "tables" / "rules.csv"
    if not path.exists():
        return
    rules = pd.read_csv(path)
    names = ["latest", *pipeline_aware(dict.fromkeys(rules["strategy"]))]
    for row in rules[(rules["rate"] != "common") & rules["strategy"].isin(names)].to_dict("records"):
        cells = "–", "–"  # of fewer than two pairs
        if row["n"] > 1:
            allowed, unit = tolerance(row["sd"], row["n"], 0.0), row["unit"]
            cells = f"{row['mean']:+.3g} {unit}", f"± {allowed:.2g}"
        outcome = in_place_of_a_verdict(row) or row["outcome"]
        yield row["cell"], find_strategy(row["strategy"]).label, *cells, outcome


def times(evidence: Path) -> Iterator[Row]:
    """How long the runs of each larger experiment take, in :data:`PROCESSES` processes side by side."""
    for path in sorted(evidence.glob("*/tables/times.csv")):
        name, seconds = path.parents[1].name, pd.read_csv(path)["wall_time_s"]
        yield name, str(len(seconds)), f"{seconds.sum() / PROCESSES / 60:.0f}"


def measured(out: Path) -> Iterator[Row]:
    """Speed of the pipelines on real processes, over plain training in one process."""
    for row in pd.read_csv(out / "pipelines" / "tables" / "speed.csv").to_dict("records"):
        yield str(row["variant"]), str(row["kind"]), str(row["speed over plain"])


def sections(results: Path, out: Path) -> dict[str, str]:
    """Marker name -> what stands between its markers."""
    told = (
        (claim, f"`{command}`", f"{math.ceil(SECONDS[command] / 60)}", *found)
        for claim, *found in claims(results, out)
        for command in [COMMANDS.get(claim, REPRODUCE)]
    )
    head = ("claim", "command", "minutes", "verdict", "expected", "tolerance")
    accuracy = ("network", "stages", "strategy", "test accuracy", "tolerance (points)")
    error = ("network", "delay", "strategy", "relative error", "tolerance")
    outcome = ("cell", "strategy", "against stash", "tolerance", "outcome")
    return {
        "artifact-claims": _table(head, told),
        "artifact-accuracy": _table(accuracy, accuracies(results, out)),
        "artifact-reconstruction": _table(error, reconstructions(results)),
        "artifact-times": _table(("experiment", "runs", "minutes"), times(results / "evidence")),
        "artifact-evidence": _table(outcome, confirmed(out)),
        "artifact-pipelines": _table(("variant", "kind", "speed over plain, median (range)"), measured(out)),
    }


def _stages_off_the_law(stages: pd.DataFrame) -> str:
    off = 0
    stages = stages[stages.groupby(["network", "group_size"])["stage"].transform("size") > 1]  # no sequential training
    for _, rows in stages.groupby(["network", "group_size"]):
        law = Delays.layerpipe2(len(rows)).per_stage
        off += sum(delay != law[stage] for stage, delay in zip(rows["stage"], rows["delay"], strict=True))
    return f"{off} of {len(stages)} stages have another delay than 2S, with S stages behind them"


def _holding(proofs: pd.DataFrame, claim: str) -> str:
    rows = proofs[proofs["claim"] == claim]
    return f"{rows['holds'].sum()} of {len(rows)} derivations"


def _most_copies(stash: pd.DataFrame) -> str:
    most = stash.loc[stash.groupby("network", sort=False)["copies"].idxmax()]
    cells = [f"{network_label(row.network)} {row.copies:.2f}" for row in most.itertuples()]
    return f"copies of the weights that stashing keeps beside the latest: {', '.join(cells)}"


def _efficient(partitions: pd.DataFrame) -> str:
    networks = list(partitions.groupby("network"))
    middle = [rows[(rows["group_size"] > 1) & (rows["stages"] > 1)]["efficient"].any() for _, rows in networks]
    said = "networks have a group size between the extremes that no other beats in both bytes sent and slowest stage"
    return f"{sum(middle)} of {len(networks)} {said}"


def _differences(rules: pd.DataFrame, image: float) -> str:
    """Points of every pipeline-aware average against stashing, cell by cell."""
    texts = []
    for cell, rows in rules[rules["sensitive"]].groupby("cell", sort=False):
        mine = rows[rows["strategy"].isin(pipeline_aware(rows["strategy"])) & (rows["n"] > 1)]
        points = [
            f"{find_strategy(row.strategy).label} {row.mean_:+.2f} ± {tolerance(row.sd, row.n, image):.2f}"
            for row in mine.rename(columns={"mean": "mean_"}).itertuples()
        ]
        texts.append(f"{cell}: {', '.join(points)}")
    return (
        f"points of accuracy above exact stashing: {'; '.join(texts)}"
        if texts
        else "no cell in which a history is shown to matter"
    )


def _table(head: Row, rows: Iterator[Row]) -> str:
    return markdown(pd.DataFrame(rows, columns=list(head)))
