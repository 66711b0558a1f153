"""How a variant of the benchmark is called and drawn."""

from __future__ import annotations

from collections.abc import Iterable

from layerpipe2.planning.variants import Variant
from paper_figures import labels, style

_PEER = "#8c8c8c"
_NAMES = {"zero-bubble-v": "zero-bubble V"}
_GROUPS = ("one process", "torch's pipelines, synchronous", "asynchronous", "no delays")


def label(name: str) -> str:
    """A variant's name for readers, as in ``1F1B, 4 micro-batches`` or ``LayerPipe2, stash``."""
    form = Variant.parse(name)
    if form.kind == "async":
        words = [labels.schedule_label(form.convention), history(name)]
    elif form.kind == "exact":
        words = ["exact"]
    elif form.kind == "threads":
        words = [labels.schedule_label("plain"), f"{form.threads} threads"]
    else:
        peer = _NAMES.get(form.kind) or labels.schedule_label(form.kind)
        words = [peer, f"{form.micro_batches} micro-batches" if form.micro_batches > 1 else ""]
    words += ["split backward" if form.split else "", "equal groups" if form.groups else ""]
    return ", ".join(word for word in words if word)


def history(name: str) -> str:
    """The weight history of an asynchronous variant, for readers."""
    return style.style(Variant.parse(name).strategy).label


def group(name: str) -> str:
    """What kind of training it is."""
    kind = Variant.parse(name).kind
    return _GROUPS[{"plain": 0, "threads": 0, "async": 2, "exact": 3}.get(kind, 1)]


def color(name: str) -> str:
    """The strategy's own colour; torch's pipelines share a grey."""
    form = Variant.parse(name)
    if form.kind == "async":
        return style.style(form.strategy).color
    return _PEER if group(name) == _GROUPS[1] else style.style("sequential").color


def is_peer(name: str) -> bool:
    """Whether it is one of torch's pipelines."""
    return group(name) == _GROUPS[1]


def is_candidate(name: str) -> bool:
    """Whether the targets are about it: asynchronous, with LayerPipe2's delays and nothing else changed."""
    form = Variant.parse(name)
    return form.kind == "async" and form.convention == "layerpipe2" and not form.split and not form.groups


def is_average(name: str) -> bool:
    """Whether its weight history is a moving average."""
    return Variant.parse(name).strategy.startswith("ema-")


def ordered(names: Iterable[str]) -> list[str]:
    """Kind by kind, each in the order of the records."""
    return sorted(dict.fromkeys(names), key=lambda name: _GROUPS.index(group(name)))
