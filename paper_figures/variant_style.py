"""How a variant of the pipeline benchmark (:mod:`layerpipe2.planning.variants`) is called and drawn."""

from collections.abc import Iterable

from layerpipe2.lab.judging.designs import SEQUENTIAL
from layerpipe2.lab.looks import look
from layerpipe2.planning.variants import DATA_PARALLEL, TORCH_PIPELINES, Variant
from layerpipe2.strategies import find_strategy

OURS = "asynchronous"
"""The kind of this library's pipelines with delays, among those of :func:`group`."""
_TORCH, _PARALLEL = "#8c8c8c", "#aa3377"
_MARKERS = {"plain": "X", "threads": "P", "independent": "P", "ddp": "s", "fsdp": "p"}
_GROUPS = {
    **dict.fromkeys(("plain", "threads"), "one process"),
    "independent": "no messages",
    **dict.fromkeys(DATA_PARALLEL, "data parallel"),
    **dict.fromkeys(TORCH_PIPELINES, "torch's pipelines, synchronous"),
    **{"async": OURS, "exact": "no delays"},
}


def label(name: str) -> str:
    """A variant's name for readers."""
    return Variant.parse(name).label


def history(name: str) -> str:
    """The weight history of an asynchronous variant, for readers."""
    return find_strategy(Variant.parse(name).strategy).label


def group(name: str) -> str:
    """What kind of training it is."""
    return _GROUPS[Variant.parse(name).kind]


def color(name: str) -> str:
    """The strategy's own colour; torch's pipelines share a grey, and data parallel training a purple."""
    form = Variant.parse(name)
    strategy = look(form.strategy if form.kind == "async" else SEQUENTIAL)
    return _TORCH if is_torch(name) else _PARALLEL if form.kind in DATA_PARALLEL else strategy.colour


def marker(name: str) -> str:
    """The strategy's own mark, or that of the kind."""
    form = Variant.parse(name)
    return look(form.strategy).marker if form.kind == "async" else _MARKERS.get(form.kind, "D")


def is_torch(name: str) -> bool:
    """Whether it is one of torch's pipelines."""
    return Variant.parse(name).kind in TORCH_PIPELINES


def is_candidate(name: str) -> bool:
    """Whether the aims are about it: asynchronous, with LayerPipe2's delays and nothing else changed."""
    form = Variant.parse(name)
    plain = not (form.split or form.groups or form.recompute)
    return form.kind == "async" and form.convention == "layerpipe2" and plain


def is_average(name: str) -> bool:
    """Whether its weight history is a moving average."""
    return find_strategy(Variant.parse(name).strategy).family == "average"


def ordered(names: Iterable[str]) -> list[str]:
    """Kind by kind, each in the order of the records."""
    kinds = list(_GROUPS.values())
    return sorted(dict.fromkeys(names), key=lambda name: kinds.index(group(name)))
