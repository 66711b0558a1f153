"""One training run as a value: every setting, with its default, its range and one line of help.

The same model checks a configuration, whatever it came from (Python, an experiment's file, the command line), makes the
options of ``layerpipe2 train`` and, as JSON schema, tells an editor what is allowed. Numeric defaults are this
project's own: the paper's are not known.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from layerpipe2.delays import DELAY_LAWS, MOST_UPDATES
from layerpipe2.errors import LARGEST, MOST_STEPS, UserError
from layerpipe2.lab.runs.validation import Checked, Positive, Real, one_of, real, setting

_LATER = ("accumulate",)
_MOST = 10**9
"""Epochs and mini-batches of a run: below it their products and sums are exact."""
Decay = Annotated[float, *real(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Steps = Annotated[int, Field(ge=1, le=_MOST)]
Law = Annotated[str, *one_of((*DELAY_LAWS, "custom"))]
OwnDelays = Annotated[tuple[Annotated[int, Field(ge=0, le=MOST_UPDATES)], ...], Field(min_length=1, strict=False)]
OPTIMIZERS = ("sgd", "adamw")
FURTHER_OPTIMIZERS: dict[str, Callable[..., Any]] = {}
"""Makers of other tables, which whoever imports them adds: parameters, ``lr`` and ``weight_decay`` -> optimizer."""


def _known_optimizer(name: str) -> str:
    if name not in (*OPTIMIZERS, *FURTHER_OPTIMIZERS):
        raise PydanticCustomError("one_of", "unknown name")
    return name


Optimizer = Annotated[
    str, AfterValidator(_known_optimizer), WithJsonSchema({"type": "string", "enum": list(OPTIMIZERS)})
]
_PROBES = "with `stash`: measure every decay rule's reconstruction error, once in so many updates; 0: never"


class RunConfig(Checked):
    """Settings of one training run. A mistake raises UserError with the field, its value and what is allowed."""

    dataset: str = setting("digits", "data", "data set; `layerpipe2 info` lists them")
    data_root: str | None = setting(None, "data", "folder searched first for the data set", metavar="DIR")
    validation_fraction: Real = setting(0.15, "data", "share of the training images for validation", gt=0, lt=1)
    augment: bool = setting(False, "data", "random crops and flips of the training images")
    batch_size: Size = setting(64, "data", "images per mini-batch")

    network: str = setting("mlp", "network", "network; `layerpipe2 info` lists them")
    width: Size | None = setting(None, "network", "base width (features or channels); default: the network's own")

    time_steps: int | None = setting(None, "spiking", "time steps of a sample; default: 4", ge=1, le=MOST_STEPS)
    membrane_decay: Decay | None = setting(None, "spiking", "what is left of a membrane after a step; default: 0.5")
    synapse_decay: Decay | None = setting(None, "spiking", "the same of its input, a second pole; default: 0, one pole")
    threshold: Positive | None = setting(None, "spiking", "membrane from which a neuron fires; default: 1")
    reset: str | None = setting(None, "spiking", "subtract, zero or none at all; default: subtract")
    surrogate: str | None = setting(
        None, "spiking", "gradient of a spike: fast-sigmoid, arctan or triangle; default: fast-sigmoid"
    )
    coding: str | None = setting(
        None, "spiking", "of images: static, rate, latency, or columns (the width is time); default: static"
    )
    readout: str | None = setting(None, "spiking", "of classes: membrane or rate; default: membrane")

    group_size: Size = setting(1, "pipeline", "units per stage; `sequential` always takes the whole network")
    convention: Law = setting("layerpipe2", "pipeline", "delay law: 2S, S (1F1B), none, or your own `delays`")
    delays: OwnDelays | None = setting(
        None, "pipeline", "delays for --convention custom, in updates, one per stage, input side first"
    )
    strategy: str = setting("stash", "pipeline", "weights that the backward pass uses; `layerpipe2 info` lists them")
    stash_epochs: Real = setting(
        0.0, "pipeline", "epochs with exact weights before `strategy` takes over", ge=0, le=_MOST
    )
    drain: bool = setting(False, "pipeline", "empty the pipeline at the end of every epoch")
    accumulate: Size | None = setting(None, "pipeline", "mini-batches per update; default: 1")

    optimizer: Optimizer = setting("sgd", "optimizer", "optimizer")
    lr: Real = setting(0.01, "optimizer", "peak learning rate", gt=0, le=1e15)
    momentum: Real = setting(0.9, "optimizer", "momentum of sgd", ge=0, lt=1)
    nesterov: bool = setting(False, "optimizer", "Nesterov's form of momentum (sgd)")
    weight_decay: Real = setting(5e-4, "optimizer", "weight decay", ge=0, le=1e15)
    schedule: Literal["constant", "cosine"] = setting("cosine", "optimizer", "learning-rate schedule after the warm-up")
    warmup_epochs: Real = setting(0.0, "optimizer", "epochs of linear warm-up of the learning rate", ge=0)
    gradient_clip_norm: Positive | None = setting(None, "optimizer", "largest gradient norm of a stage")

    epochs: Steps = setting(10, "run", "passes over the training images")
    max_steps: Steps | None = setting(None, "run", "stop after so many mini-batches")
    precision: Literal["float32", "float64", "bf16"] = setting(
        "float32", "run", "arithmetic; bf16 keeps float32 master weights"
    )
    seed: int = setting(0, "run", "seed of the weights, the split and the order of the data", ge=0, le=2**32 - 1)
    threads: int = setting(1, "run", "CPU threads; another number changes the last bits", ge=1, le=1024)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "run", "where to train")
    cuda_graph: bool = setting(False, "run", "on a CUDA device, run the step as one CUDA graph")
    probe_every: int = setting(0, "run", _PROBES, ge=0, le=_MOST)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.convention == "custom") != (self.delays is not None):
            raise UserError("delays and convention 'custom' go together; give both or neither")
        if self.stash_epochs and self.drain:
            raise UserError(
                "stash_epochs counts from the last fill of the pipeline, and drain fills it every epoch; "
                "give one of them"
            )
        if self.probe_every and (self.accumulate or 1) > 1:
            raise UserError(
                f"probe_every looks at an update after every mini-batch, and accumulate is {self.accumulate}; give one"
            )
        if self.nesterov and self.optimizer != "sgd":
            raise UserError(f"nesterov is a form of sgd's momentum; the optimizer is {self.optimizer}; leave it out")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov is a form of momentum, and momentum is 0; give a momentum above 0")
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs is {self.warmup_epochs:g}, but there are {self.epochs} epochs: the rate would never "
                "reach its peak; give a shorter warm-up"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Field name -> plain value (JSON and checkpoints); fields that older records lack only if they are given."""
        given = ((name, value) for name, value in self if name not in _LATER or value is not None)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given}
