"""The page of the measured pipelines: what was aimed at and reached, then the evidence."""

from __future__ import annotations

import pandas as pd

from paper_figures import labels
from paper_figures.pipelines import tables, variants
from paper_figures.pipelines.claims import claims
from paper_figures.pipelines.figures import network_words
from paper_figures.pipelines.records import PipelineRecords, Study
from paper_figures.render import Block, Bullets, Heading, Image, Table, Text

_BUSY = 0.5  # load average before the first measurement


def page(records: PipelineRecords) -> list[Block]:
    """The whole page as blocks."""
    study = records.main
    found = claims(records)
    answers = pd.DataFrame([(claim.title, claim.word) for claim in found], columns=["question", "answer"])
    blocks: list[Block] = [Heading("Pipelines on real processes: measured", 1), *_state(study), Table(answers)]
    blocks += [Text(claim.text, f"{claim.title}: {claim.word}.") for claim in found]
    blocks += [
        Heading("Speed"),
        Image("speed", "Speed over plain training; bars are medians, dots rounds, diamonds predictions."),
        Table(tables.speeds(study)),
        Table(tables.over_peers(study)),
    ]
    for other in records.cuts:
        blocks += [Heading(f"Cut by time or by number of layers: {network_words(other.network)}"),
                   Table(tables.speeds(other))]  # fmt: skip
    if study.traces:
        blocks += [Heading("Bubble"), *_timelines(study), Table(tables.idle(study))]
    if not study.memory.empty:
        blocks += [Heading("Memory"), Image("memory", "What the stages hold: measured bars, modelled marks."),
                   Table(tables.memory(study))]  # fmt: skip
    if not study.targets.empty:
        blocks += [Heading("Time to accuracy"), Image("time_to_target", "Training time to the target accuracy."),
                   Table(tables.targets(study))]  # fmt: skip
    return [*blocks, Heading("What this does not show"), Bullets(_limits(study))]


def _state(study: Study) -> list[Block]:
    o, where = study.options, study.provenance
    text = (
        f"{network_words(study.network)} on {labels.dataset_label(o['dataset'])}, mini-batches of {o['batch_size']}, "
        f"SGD with momentum; {o['processes']} processes of one thread on {where['cores']} cores ({where['device']}), "
        f"gloo; torch {where['versions']['torch']}; commit {str(where['commit'])[:12]}"
        f"{', changed' if where['dirty'] else ''}. Every round runs each variant once, in fresh processes, and a ratio "
        f"compares two times of one round; told are medians and, in brackets, smallest and largest of n={o['rounds']}."
    )
    blocks: list[Block] = [Text(text)]
    if o["quick"]:
        blocks.append(Text("This shows that everything works; the numbers mean nothing.", "Quick run."))
    if where["load_average"] > _BUSY:
        load = (
            f"The load average was {where['load_average']:.1f} before the first measurement: other work shared the "
            "processor, and the times below are not to be trusted."
        )
        blocks.append(Text(load, "Busy machine."))
    return blocks


def _timelines(study: Study) -> list[Block]:
    names = list(study.traces)
    blocks: list[Block] = []
    if any(not name.startswith("exact") for name in names):
        blocks.append(Image("timeline", "Who computes when, from time stamps; grey is waiting."))
    if any(name.startswith("exact") for name in names):
        blocks.append(Image("timeline_split", "Without delays: the backward pass whole and split."))
    return blocks


def _limits(study: Study) -> list[str]:
    cores, processes = study.provenance["cores"], study.options["processes"]
    threaded = f"threads/{processes}"
    if threaded in set(study.variants["variant"]):
        rival = (
            f"'{variants.label(threaded)}' is plain training in one process whose {processes} threads share the work "
            "of every operation, as torch ships them; only its speed was measured, and nothing predicts it. Such "
            "threads wait for each other after every operation: other work on the machine holds up all of them."
        )
    else:
        rival = f"One process of {processes} threads, which anybody would try first, was not measured."
    return [
        f"One machine with {cores} cores and {processes} processes that exchange messages over the loopback: nothing "
        "here measures GPUs, NCCL or a network between machines.",
        "All processes share caches and memory bandwidth, which one process has for itself.",
        rival,
        "torch's pipelines run as torch ships them, with their default settings; larger mini-batches would leave them "
        "larger micro-batches.",
        "The time stamps are of one run per variant, and taking them costs time.",
    ]
