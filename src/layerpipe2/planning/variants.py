"""Names of the variants of training that the pipeline benchmark compares, and what they mean.

- ``plain``, ``plain/<micro-batches>``: one process; with micro-batches it accumulates their gradients (a small one may
  stay in the cache, which is no merit of a pipeline);
- ``threads/<n>``: plain training in one process of n threads, which share the work of every operation; what anybody
  would try before a pipeline of n processes;
- ``independent``: as many processes as a pipeline has, each of which trains a network of its own as ``plain`` does:
  what the machine can reach at all, since there are no messages;
- ``ddp``, ``fsdp``: data parallel training as torch ships it, of the same mini-batches: every process has an equal part
  of each, and all weights (``DistributedDataParallel``) or a shard of them (``fully_shard``);
- ``<torch's pipeline>/<micro-batches>`` as in ``gpipe/4``: torch's own schedule;
- ``async/<strategy>`` as in ``async/stash``: the asynchronous pipeline under LayerPipe2's delays, ``.../pipedream``
  under PipeDream's;
- ``exact``: the same runtime without delays: one process after the other computes, nothing is late.

Of the last two kinds, ``.../split`` computes gradients of weights as a task of their own, and ``.../groups`` cuts into
groups of as many units instead of into stages of equal time. ``async/stash/recompute`` keeps the inputs of mini-batches
in flight only, and runs their forward passes again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from layerpipe2.delays import Delays
from layerpipe2.errors import UserError
from layerpipe2.planning.schedules import SCHEDULES
from layerpipe2.strategies import find_strategy, make_strategy

TORCH_PIPELINES = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "zero-bubble": 1, "zero-bubble-v": 2}
"""Synchronous pipelines that torch ships -> stages per process."""
DATA_PARALLEL = ("ddp", "fsdp")
"""Kinds whose processes all train the whole network, each on its part of every mini-batch."""
MEMORY_KINDS = ("parameters", "optimizer", "activations", "history")
"""What a stage stores; columns of the benchmark's records, in bytes."""
_OPTIONS = {"async": ("pipedream", "split", "groups", "recompute"), "exact": ("split", "groups")}
_NAMES = {
    "zero-bubble-v": "zero-bubble V",
    "threads": "plain",
    "independent": "plain, a network per process",
    "ddp": "data parallel, DDP",
    "fsdp": "data parallel, FSDP",
}


@dataclass(frozen=True)
class Variant:
    """A name that was read.

    Attributes:
        kind: ``plain``, ``threads``, ``independent``, ``async``, ``exact``, one of :data:`DATA_PARALLEL` or of
            :data:`TORCH_PIPELINES`.
        micro_batches: of a mini-batch; 1 for the asynchronous pipeline.
        strategy: weight history of the asynchronous pipeline, else nothing.
        convention: its delay law.
        split: whether gradients of weights are a task of their own.
        groups: whether all stages have as many units, up to the last one.
        recompute: whether mini-batches in flight keep no activations.
        threads: of every process.
    """

    kind: str
    micro_batches: int = 1
    strategy: str = ""
    convention: str = "none"
    split: bool = False
    groups: bool = False
    threads: int = 1
    recompute: bool = False

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Read a name.

        Raises:
            UserError: if it is none, its strategy isn't one, or has not the weights to recompute with.
        """
        kind, *details = name.split("/")
        if kind in ("plain", "independent", *DATA_PARALLEL) and not details:
            return cls(kind)
        number = int(details[0]) if len(details) == 1 and re.fullmatch("[0-9]{1,4}", details[0]) else 0
        if number and kind in ("plain", "threads", *TORCH_PIPELINES):
            return cls(kind, threads=number) if kind == "threads" else cls(kind, number)
        strategy = details.pop(0) if kind == "async" and details else ""
        known = kind == "exact" or strategy not in ("", *_OPTIONS["async"])
        if not known or len(set(details)) < len(details) or not set(details) <= set(_OPTIONS.get(kind, ())):
            raise UserError(
                f"unknown variant {name!r}; give plain, independent, {', '.join(DATA_PARALLEL)}, exact or "
                "async/STRATEGY, with /split or /groups behind the last two and /pipedream or /recompute behind the "
                f"last, or one of plain, {', '.join(TORCH_PIPELINES)} with a number of micro-batches, as in gpipe/4, "
                "or threads/NUMBER"
            )
        if strategy and not make_strategy(strategy).exact and "recompute" in details:
            raise UserError(f"variant {name!r} recomputes with weights that its history has not kept; give async/stash")
        delays = "none" if kind == "exact" else "pipedream" if "pipedream" in details else "layerpipe2"
        chosen = {option: option in details for option in ("split", "groups", "recompute")}
        return cls(kind, 1, strategy or "latest", delays, **chosen)

    @property
    def label(self) -> str:
        """The name for readers, as in ``1F1B, 4 micro-batches`` or ``LayerPipe2, stash``."""
        kind = self.convention if self.kind == "async" else self.kind
        words = [SCHEDULES[kind].label if kind in SCHEDULES else _NAMES.get(kind, kind)]
        words += [find_strategy(self.strategy).label] if self.kind == "async" else []
        words += [f"{self.threads} threads"] if self.kind == "threads" else []
        words += [f"{self.micro_batches} micro-batches"] if self.micro_batches > 1 else []
        options = {"split backward": self.split, "equal groups": self.groups, "recomputed": self.recompute}
        words += [text for text, chosen in options.items() if chosen]
        return ", ".join(words)

    @property
    def is_runtime(self) -> bool:
        """Whether ``layerpipe2.pipeline`` trains it."""
        return self.kind in ("async", "exact")

    @property
    def learns_as(self) -> str:
        """The strategy whose updates it makes: its weight history, or ``sequential`` where no gradient is late."""
        return self.strategy if self.kind == "async" else "sequential"

    def fills(self, processes: int) -> int:
        """Return how many more mini-batches' time an epoch takes, while the pipeline fills and drains."""
        return self.stages(processes) - 1 if self.kind == "async" else 0

    def ranks(self, processes: int) -> int:
        """Return the number of processes, of so many at hand."""
        return 1 if self.kind in ("plain", "threads") else processes

    def stages(self, processes: int) -> int:
        """Return the number of stages on so many processes."""
        if self.kind in TORCH_PIPELINES:
            return TORCH_PIPELINES[self.kind] * processes
        return processes if self.is_runtime else 1

    def delays(self, processes: int) -> Delays:
        """Return the delays of the stages; none where the pipeline waits for all updates."""
        return Delays.by_law(self.convention, self.stages(processes))


def group_starts(units: int, stages: int) -> tuple[int, ...]:
    """Return first units of so many groups of equal size, of which the last may be smaller.

    Raises:
        UserError: if no group size gives so many.
    """
    starts = tuple(range(0, units, -(-units // stages)))
    if len(starts) != stages:
        raise UserError(f"{units} units do not make {stages} groups of equal size; leave out the variants with /groups")
    return starts
