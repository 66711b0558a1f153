"""When each process did what: real time stamps, for a drawing and for Chrome's trace viewer."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

_CPU = torch.device("cpu")


class Span(NamedTuple):
    """A span of time: what (``forward``, ``recompute``, ``backward``, ``weights``, ``wait``), where, and when in ns."""

    what: str
    stage: int
    batch: int
    start: int
    stop: int


class SpanRecorder:
    """Events of one process. The clock is the machine's monotonic one, common to all its processes.

    Args:
        limit: events to keep; later ones are dropped (a trace viewer can't show millions).
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit
        self.events: list[Span] = []

    @contextmanager
    def span(self, what: str, stage: int, batch: int, device: torch.device = _CPU) -> Iterator[None]:
        """Records the time that the block takes; on a GPU that of its work there, which costs a little of the speed."""
        start = _now(device)
        yield
        stop = _now(device)
        if len(self.events) < self.limit:
            self.events.append(Span(what, stage, batch, start, stop))


def _now(device: torch.device) -> int:
    if device.type == "cuda":  # not the whole device: a transfer on it may be waiting for the neighbour
        torch.cuda.current_stream(device).synchronize()
    return time.monotonic_ns()


def chrome_trace(events_of_rank: Sequence[Sequence[Span]]) -> str:
    """JSON for ``chrome://tracing`` or Perfetto: one process per rank, times in microseconds from the first event."""
    origin = min((event.start for events in events_of_rank for event in events), default=0)
    place = {"name": "process_name", "ph": "M"}
    events = [{**place, "pid": rank, "args": {"name": f"rank {rank}"}} for rank in range(len(events_of_rank))]
    for rank, own in enumerate(events_of_rank):
        for what, stage, batch, start, stop in own:
            span = {"name": f"{what} {batch}", "cat": what, "ph": "X", "pid": rank, "tid": stage}
            events.append({**span, "ts": (start - origin) / 1000, "dur": (stop - start) / 1000})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
