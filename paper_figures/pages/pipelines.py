"""The page of the measured pipelines: what was aimed at and reached, then the evidence."""

import math
from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.planning.variants import Variant
from paper_figures import variant_style
from paper_figures.claims.pipelines import time_to_loss as losses
from paper_figures.claims.pipelines.memory import memory
from paper_figures.claims.pipelines.regimes import fastest, foretold
from paper_figures.claims.pipelines.speed import cut, idle, over_plain, over_torch, predicted, split
from paper_figures.figures.pipelines import processes, regimes, speed, time_to_loss
from paper_figures.pages import Page
from paper_figures.records import BUSY
from paper_figures.records.pipelines import PipelineRecords
from paper_figures.tables import pipelines as tables
from paper_figures.text import dataset_label, listed
from paper_figures.verdicts import Verdict


def page(records: PipelineRecords) -> Page:
    """The page with its figures and tables."""
    bench, found, drawn, shown = records.main, claims(records), figures(records), tables.catalogue(records)
    threaded = f"threads/{bench.options['processes']}"
    wheres = [bench.provenance, *(other.provenance for other in (records.regimes, records.time_to_loss) if other)]
    load = max(where["busy_cores"] for where in wheres)
    quick = any(options["quick"] for options in (bench.options, *(where["options"] for where in wheres[1:])))
    answers = [(claim.question, claim.word) for claim in found]
    content = {
        "bench": bench,
        "cuts": records.cuts,
        "dataset": dataset_label(bench.options["dataset"]),
        "options": bench.options,
        "quick": quick,
        "where": bench.provenance,
        "dirty": any(where["dirty"] for where in wheres),
        "batches": records.regimes.batches if records.regimes else {},
        "commits": listed(dict.fromkeys(str(where["commit"])[:12] for where in wheres)),
        "load": load,
        "busy": load > BUSY,
        "verdict_table": pd.DataFrame(answers, columns=["question", "answer"]),
        "claims": found,
        "tables": shown,
        "figures": drawn,
        "regimes": records.regimes,
        "time_to_loss": records.time_to_loss,
        "first": losses.headline(records.time_to_loss) if records.time_to_loss else "",
        "threads": variant_style.label(threaded) if threaded in set(bench.variants["variant"]) else "",
        "threads_predicted": bool(bench.variants.set_index("variant")["predicted"].get(threaded, math.nan) > 0),
    }
    return Page("pipelines", "pipelines.md", content, found, drawn, shown, shown)


def claims(records: PipelineRecords) -> list[Verdict]:
    """All verdicts, in the order of the page."""
    bench = records.main
    of_map = [fastest(records.regimes), foretold(records.regimes)] if records.regimes else []
    of_loss = [losses.time_to_loss(records.time_to_loss)] if records.time_to_loss else []
    first = [*of_loss, *of_map, over_plain(bench), over_torch(bench), idle(bench), memory(bench), predicted(records)]
    return [*first, *map(cut, records.cuts), split(bench)]


def figures(records: PipelineRecords) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws the figure, of what was measured."""
    bench = records.main
    exact = [name for name in bench.traces if Variant.parse(name).kind == "exact"]
    late = [name for name in bench.traces if name not in exact]
    return {
        **({"regimes": partial(regimes.regimes, records.regimes)} if records.regimes else {}),
        **({"time_to_loss": partial(time_to_loss.time_to_loss, records.time_to_loss)} if records.time_to_loss else {}),
        "speed": partial(speed.speed, records),
        **({} if bench.memory.empty else {"memory": partial(processes.memory, records)}),
        **({"timeline": partial(processes.timeline, records, late)} if late else {}),
        **({"timeline_split": partial(processes.timeline, records, exact)} if exact else {}),
    }
