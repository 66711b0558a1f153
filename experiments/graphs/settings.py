"""GraphSettings of the experiment on sampled graphs: every option, with its default, its range and one line of help."""

from typing import Annotated

from pydantic import Field

from layerpipe2.errors import LARGEST
from layerpipe2.graphs.loader import THREADS
from layerpipe2.lab.runs.validation import Checked, Real, Several, setting

FanOut = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...], Field(strict=False, json_schema_extra={"spaced": True})
]


class GraphSettings(Checked):
    """What is measured, and how often.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """

    graph: str = setting("digits", "", "graph: digits, wordnet, cora, citeseer or facebook")
    folder: str | None = setting(None, "", "folder of its files, if they aren't where they always are")
    network: str = setting("sage", "", "network whose training is timed: sage, gin or gat")
    width: int = setting(64, "", "features of a hidden layer", ge=1, le=LARGEST)
    fan_out: FanOut = setting((10, 8, 5), "", "most neighbours per node, from the mini-batch's nodes outwards")
    batch_size: int = setting(128, "", "nodes per mini-batch", ge=1, le=LARGEST)
    threads: Several[Annotated[int, Field(ge=1, le=THREADS)]] = setting((1, 2), "", "numbers of preparing threads")
    rounds: int = setting(5, "", "times that everything is timed", ge=1, le=1000)
    batches: int = setting(60, "", "timed mini-batches per round, or an epoch's if there are fewer", ge=2, le=10_000)
    seeds: int = setting(3, "", "trainings per network and strategy; 0: none", ge=0, le=1000)
    epochs: int = setting(10, "", "epochs of these", ge=1, le=10_000)
    lr: Real = setting(0.003, "", "their learning rate of AdamW", gt=0)
