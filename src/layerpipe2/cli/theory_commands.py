"""Options and help of the commands ``stability``, ``derive`` and ``schedule``, which train nothing."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from layerpipe2.cli.commands import AddCommand
from layerpipe2.cli.options import PIPELINE, add_options
from layerpipe2.errors import UserError
from layerpipe2.runs.config import RunConfig
from layerpipe2.runs.validation import Checked, Positive, setting

_STABILITY_EXAMPLES = """\
examples:
  layerpipe2 stability                                    the MLP, every unit a stage, momentum 0.9
  layerpipe2 stability --network vgg --group-size 3 --momentum 0
  layerpipe2 stability --convention pipedream --nesterov
  layerpipe2 stability --group-size 3 --convention custom --delays 4,4,0

Descent with a gradient that is d updates old converges on a quadratic of curvature c if learning rate x c is below a
bound: 2 sin(pi / (4d + 2)) without momentum. Momentum raises it where there is no delay, and lowers it sharply where
there is one. The curvature of a network is not known beforehand: read the table as how much smaller the learning rate
must be than in sequential training.
"""

_DERIVE_EXAMPLES = """\
examples:
  layerpipe2 derive                                       four layers, a stage each: every step, then the proofs
  layerpipe2 derive --layers 5 --groups 2,2,1             layers of one stage share its delay
  layerpipe2 derive --network resnet18 --group-size 2     with the branches of the residual blocks
  layerpipe2 derive --layers 3 --convention pipedream     PipeDream's delays, S instead of 2S
  layerpipe2 derive --layers 3 --step 2                   the registers after one step
  layerpipe2 derive --layers 3 --export dot --out pipeline.dot

The graph of training has a node for every forward task (F), activation gradient (A), weight gradient (G) and update
(U) of a layer. Step 0 is sequential training; 1 puts registers at input and output; 2 delays gradients, by as little
as the loops allow; 3 and 4 retime, until every boundary between stages has a register in each direction. The tables
count registers, one tick each. Formats of --export: table, edges, dot (Graphviz), json, graphml.
"""

_SCHEDULE_EXAMPLES = """\
examples:
  layerpipe2 schedule                                     all schedules on four processors with equal stages
  layerpipe2 schedule layerpipe2 --processors 3           its chart: F3 is the forward pass of batch 3
  layerpipe2 schedule zb-h1 --batches 6 --until 30        as much of it as you like
  layerpipe2 schedule --processors 8 --forward 1 --activation 1 --weight 2

Schedules: gpipe, 1f1b, interleaved, zb-h1 (these update once per --batches micro-batches), pipedream, layerpipe,
layerpipe2 (these update after every mini-batch). Processors have a stage each, in `interleaved` two of half the
length, and links cost nothing. Times are in any unit.
"""


class DeriveOptions(Checked):
    """Options of ``derive``: what it derives."""

    layers: int | None = setting(None, "network", "a chain of N layers; default: 4", ge=1)
    network: str | None = setting(None, "network", "a network; `layerpipe2 info` lists them; default: a chain")
    group_size: int | None = setting(None, "pipeline", "units per stage; default: 1", ge=1)
    groups: tuple[int, ...] | None = setting(
        None, "pipeline", "units of every stage, input side first; default: equal groups", strict=False
    )
    convention: str = setting("layerpipe2", "pipeline", "layerpipe2, pipedream or none")

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.layers is not None and self.network is not None:
            raise UserError("--layers and --network are both given; give one of them")
        return self


class ScheduleOptions(Checked):
    """What ``schedule`` simulates."""

    processors: int = setting(4, "", "number of processors", ge=1)
    batches: int = setting(8, "", "micro-batches per update of the synchronous schedules", ge=1)
    forward: Positive = setting(1, "", "time of a stage's forward pass")
    activation: Positive = setting(1, "", "time of its activation gradient")
    weight: Positive = setting(1, "", "time of its weight gradient")
    until: Positive | None = setting(None, "", "end of the chart; default: what fits, at most 24 columns")


def add_theory_commands(add: AddCommand) -> None:
    """Add the three commands."""
    stability = add("stability", "show how large a step delayed gradients allow", _STABILITY_EXAMPLES)
    add_options(stability, RunConfig, only=[*PIPELINE, "momentum", "nesterov"])
    derive = add("derive", "derive a pipeline's delays by retiming, with proofs", _DERIVE_EXAMPLES)
    add_options(derive, DeriveOptions)
    group = derive.add_argument_group("output")
    group.add_argument("--step", metavar="STEP", help="show this step only: 0, 1, 2, 3, 4, 4.2, ...")
    group.add_argument("--export", metavar="FORMAT", help="format of the graph of --step (default: the last)")
    group.add_argument("--out", metavar="FILE", help="write there; default: the terminal")
    schedule = add("schedule", "simulate and draw pipeline schedules", _SCHEDULE_EXAMPLES)
    schedule.add_argument("name", nargs="?", metavar="NAME", help="draw this one; default: compare all")
    add_options(schedule, ScheduleOptions)
