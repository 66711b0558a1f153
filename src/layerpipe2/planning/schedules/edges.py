"""What each task waits for, and what travels where the two are on different processors."""

from __future__ import annotations

from typing import Literal, NamedTuple

from layerpipe2.planning.schedules.actions import Kind, Schedule, Task
from layerpipe2.planning.work import StageWork

Payload = Literal["output", "gradient", "half gradient", "for B", "for W", "inner", "weights", "half weights"]


class Edge(NamedTuple):
    """The task needs task ``source`` of ``lag`` batches before (or nothing, in the first ``lag`` batches)."""

    source: Task
    lag: int
    payload: Payload


def edges(schedule: Schedule) -> dict[Task, tuple[Edge, ...]]:
    """The inputs of every task.

    F waits for F of the stage before. Every backward task waits for its stage's F (what it saved) and for the
    gradient from the stage after, in whichever parts that computes it. Where the weights are updated on another
    processor, each update travels to the tasks that read them.
    """
    return {task: tuple(_inputs(schedule, *task)) for task in schedule.home}


def _inputs(schedule: Schedule, kind: Kind, stage: int) -> list[Edge]:
    home, found = schedule.home, list[Edge]()
    if kind == "F" and stage > 0:
        found.append(Edge(("F", stage - 1), 0, "output"))
    if kind != "F":
        found.append(Edge(("F", stage), 0, "for W" if kind == "W" else "for B"))
        for part in ("B", "BW", "B1", "B2"):
            if (part, stage + 1) in home:
                found.append(Edge((part, stage + 1), 0, "half gradient" if part in ("B1", "B2") else "gradient"))
    if kind == "W" and stage in schedule.compound and home.get(("B", stage)) != home[kind, stage]:
        found.append(Edge(("B", stage), 0, "inner"))
    if (kind, stage) in schedule.weight_lag:
        lag = schedule.weight_lag[kind, stage]
        found.append(Edge(("W", stage), lag, "half weights" if kind in ("B1", "B2") else "weights"))
    return found


def payload_bytes(payload: Payload, stage: StageWork) -> float:
    """Bytes of a message, from the sizes of the sending stage.

    A single layer's activation gradient needs of its own forward pass only the sign mask of the nonlinearity, which
    its forward processor can apply (0 bytes); its weight gradient needs the input. Several layers need all that was
    saved, and their weight gradients the inner gradients too, taken to be as large (an upper bound).
    """
    sizes: dict[Payload, float] = {
        "output": stage.output_bytes,
        "gradient": stage.input_bytes,
        "half gradient": stage.input_bytes / 2,
        "for B": 0 if stage.single_layer else stage.saved_bytes,
        "for W": stage.input_bytes if stage.single_layer else stage.saved_bytes,
        "inner": stage.saved_bytes,
        "weights": stage.parameter_bytes,
        "half weights": stage.parameter_bytes / 2,
    }
    return sizes[payload]
