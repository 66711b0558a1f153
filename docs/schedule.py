"""The schedule that moves, on the page of the delays: what a browser draws, computed here from the laws.

Without scripts a picture of one schedule stands in its place.
"""

import json
from collections.abc import Iterator

from layerpipe2.delays import DELAY_LAWS, Delays

MARK = "<!-- schedule -->"
STAGES = range(2, 10)


def data() -> dict[str, dict[str, object]]:
    """Law -> its label, and number of stages -> a row per stage of cells, one per tick.

    A cell is ``[F, reads, B, read, between]``: the mini-batch of its forward task and the weights ``W(reads)`` that it
    reads; the mini-batch of its backward task, which runs at ``W(B)`` and makes ``W(B + 1)``, the weights ``W(read)``
    that its forward task read, and the updates between the two. An absent task is null.
    """
    found = {name: {str(K): list(_rows(name, K)) for K in STAGES} for name in DELAY_LAWS}
    return {name: {"label": DELAY_LAWS[name].label, "stages": grids} for name, grids in found.items()}


def _rows(law: str, stages: int) -> Iterator[list[list[int | None]]]:
    delays = Delays.by_law(law, stages)
    for delay, cells in zip(delays.per_stage, delays.cells(4 * stages), strict=True):
        row = []
        for cell in cells:
            forward, backward = _tasks(cell)
            reads = None if forward is None else max(0, forward - delay)
            read = None if backward is None else max(0, backward - delay)
            row.append([forward, reads, backward, read, None if backward is None else backward - read])
        yield row


def _tasks(cell: str) -> tuple[int | None, int | None]:
    """Mini-batches of the forward and the backward task: ``F3B1`` -> (3, 1)."""
    forward, _, backward = cell.removeprefix("F").partition("B")
    return (int(forward) if forward else None, int(backward) if backward else None)


def picture(stages: int = 4, ticks: int = 12) -> str:
    """LayerPipe2's schedule as SVG, in the colours of the page."""
    rows, wide, high, left = Delays.layerpipe2(stages).cells(ticks), 46, 26, 62
    drawn = [
        f'<text x="{left + wide * tick + wide / 2}" y="14" text-anchor="middle">{tick}</text>' for tick in range(ticks)
    ]
    for stage, row in enumerate(rows):
        drawn.append(f'<text x="0" y="{high * (stage + 1) + 14}">stage {stage}</text>')
        for tick, cell in enumerate(row):
            kind = "none" if not cell else "f" if "B" not in cell else "b"
            place = f'x="{left + wide * tick + 1}" y="{high * (stage + 1) - 3}" width="{wide - 2}" height="{high - 2}"'
            middle = f'x="{left + wide * tick + wide / 2}" y="{high * (stage + 1) + 14}" text-anchor="middle"'
            drawn += [f'<rect class="{kind}" {place}/>', f"<text {middle}>{cell}</text>"]
    size = f"0 0 {left + wide * ticks} {high * (stages + 1) + 4}"
    title = f"The schedule of {stages} stages: F forward, B backward and update, a column per tick"
    return f'<svg viewBox="{size}" role="img" aria-label="{title}">{"".join(drawn)}</svg>'


def html() -> str:
    """The picture, which the script replaces, and the numbers that it draws."""
    numbers = json.dumps(data(), separators=(",", ":"))
    return f'<div class="schedule">{picture()}<script type="application/json">{numbers}</script></div>'
