"""BenchmarkSettings of the pipeline benchmark: every option, with its default, its range and one line of help."""

import argparse
import sys
from collections.abc import Sequence
from typing import Annotated, Self, TypeVar

from pydantic import Field, model_validator

from layerpipe2.cli import Parser
from layerpipe2.errors import LARGEST, UserError
from layerpipe2.lab.cli.options import add_options, read_options
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Checked, Real, setting
from layerpipe2.planning.variants import DATA_PARALLEL, TORCH_PIPELINES, Variant

T = TypeVar("T", bound=Checked)

PLAIN = "plain"
"""Plain training in one process, which all other variants are measured against."""
_ASYNCHRONOUS = ("async/stash", "async/latest", "async/ema-window")
VARIANTS = (
    *(PLAIN, "plain/4", "threads/2", "independent", *DATA_PARALLEL),
    *(f"{name}/{micro_batches}" for name in TORCH_PIPELINES for micro_batches in (2, 4)),
    *_ASYNCHRONOUS,
    *("async/stash/recompute", "async/ema-window/pipedream", "async/ema-window/split", "exact", "exact/split"),
)

_List = Field(strict=False, json_schema_extra={"uniqueItems": True})
Names = Annotated[tuple[str, ...], _List]
Counts = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], _List]


def check_choices(names: Sequence[str], needed: Sequence[str] = (PLAIN, "ddp", "async/stash")) -> None:
    """Refuse a list of choices to pick from that lacks one of ``needed``, or has what is no choice.

    Raises:
        UserError: naming the variant.
    """
    for name in names:
        if Variant.parse(name).kind == "independent":
            raise UserError(f"variant {name!r} trains several networks, which is no choice for one; leave it out")
    for name in needed:
        if name not in names:
            raise UserError(f"variant {name!r} is missing among {', '.join(names)}; the page compares with it")


def parse(parser: Parser, model: type[T], arguments: Sequence[str] | None, quick: str) -> tuple[T, argparse.Namespace]:
    """The settings that are options as well, and all options; with ``--quick`` those not given are as in ``quick``.

    Raises:
        UserError: on a mistake in an option.
    """
    add_options(parser, model)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    if options.quick:
        options = parser.parse_args([*quick.split(), *given])
    return read_options(model, options), options


class BenchmarkSettings(Checked):
    """What the benchmark measures, and how often.

    Raises:
        UserError: naming the setting, its value and what is allowed; on an unknown variant, or without ``plain``.
    """

    network: str = setting("even", "", "'even' (eight equal convolutions) or a network of layerpipe2")
    width: int | None = setting(None, "", "base width; default: the network's own, 64 for 'even'", ge=1, le=LARGEST)
    dataset: str = setting("digits", "", "data set")
    data_root: str | None = setting(None, "", "folder searched first for the data set")
    batch_size: int = setting(64, "", "images per mini-batch", ge=1, le=LARGEST)
    lr: Real = setting(0.01, "", "learning rate of SGD with momentum 0.9", gt=0)
    processes: int = setting(2, "", "processes of a pipeline", ge=1, le=64)
    variants: Names = setting(VARIANTS, "", "what to compare")
    rounds: int = setting(5, "", "times that each variant's speed is measured", ge=1, le=1000)
    batches: int = setting(40, "", "timed mini-batches per round, filling and draining included", ge=1, le=10_000)
    warmup: int = setting(5, "", "mini-batches before them", ge=0, le=10_000)
    layer_repeats: int = setting(25, "", "timed steps of each unit", ge=1, le=10_000)
    memory_strategies: Names = setting(("stash", "latest", "ema-window"), "", "strategies whose bytes are measured")
    memory_processes: Counts = setting((2, 4), "", "on so many processes; without a number: not at all")
    timelines: Names = setting(
        ("async/ema-window", "1f1b/4", "gpipe/4", "exact", "exact/split"), "", "variants to take time stamps of"
    )
    trace_batches: int = setting(18, "", "mini-batches of a timeline", ge=1, le=10_000)
    cut_network: str = setting("vgg16", "", "network on which to compare cuts by time and by group size; '': none")
    cut_width: int | None = setting(64, "", "its base width", ge=1, le=LARGEST)
    cut_variant: str = setting("async/ema-window", "", "the pipeline that is cut")
    quick: bool = setting(False, "", "seconds instead of minutes: shows that it works, measures nothing")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        for name in (*self.variants, *self.timelines, *self.memory_variants, self.cut_variant):
            Variant.parse(name)
        if PLAIN not in self.variants:
            raise UserError(f"variant '{PLAIN}' is missing; the others are measured against it")
        return self

    @property
    def memory_variants(self) -> list[str]:
        """The variants whose stages' bytes are measured."""
        return [f"async/{strategy}" for strategy in self.memory_strategies]

    def run_config(self, network: str, width: int | None) -> RunConfig:
        """How a network is trained."""
        same = {name: getattr(self, name) for name in ("dataset", "data_root", "batch_size", "lr")}
        return RunConfig(network=network, width=width, schedule="constant", **same)


QUICK = (
    "--width 4 --rounds 2 --batches 3 --warmup 1 --layer-repeats 1 --trace-batches 9 "
    "--variants plain threads/2 independent ddp 1f1b/2 gpipe/2 async/stash exact exact/split "
    "--memory-processes 2 --memory-strategies stash ema-window --timelines async/stash 1f1b/2 gpipe/2 "
    "--cut-network mlp --cut-width 8"
)
"""The options of a run that only shows that everything works, where it isn't given others."""
