"""One training run as a value: every setting, with its default, its range and one line of help.

The same table of fields checks a configuration, whatever it came from (Python, ``params.yaml``, the command line), and
makes the options of ``layerpipe2 train``. Numeric defaults are this project's own: the paper's are not known.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from layerpipe2.delays import DELAY_LAWS
from layerpipe2.errors import UserError


@dataclass(frozen=True)
class Rule:
    """What a value may be: a kind (``int``, ``float``, ``str``, ``bool``, ``delays``), bounds or choices.

    Attributes:
        section: heading in the command line's help.
        text: one line of help, with the unit.
        low, high: inclusive bounds; ``open_low`` excludes ``low``, ``open_high`` excludes ``high``.
        optional: whether None ("not used") is allowed.
    """

    section: str
    text: str
    kind: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False

    def allowed(self) -> str:
        """The allowed values in words, as in ``a finite number > 0``."""
        words = {"int": "an integer", "float": "a finite number", "str": "a text", "bool": "true or false"}
        text = words.get(self.kind, "a list of integers >= 0, one per stage")
        if self.choices:
            text = f"one of {', '.join(self.choices)}"
        if self.kind == "delays":
            return text + (", or none" if self.optional else "")
        low, high = (
            f"{int(b)}" if self.kind == "int" and math.isfinite(b) else f"{b:g}" for b in (self.low, self.high)
        )
        bounds = [f"{'>' if self.open_low else '>='} {low}"] if self.low > -math.inf else []
        bounds += [f"{'<' if self.open_high else '<='} {high}"] if self.high < math.inf else []
        return " ".join([text, " and ".join(bounds)]).strip() + (", or none" if self.optional else "")

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` has the right type and lies in the allowed range."""
        if value is None:
            return self.optional
        if self.kind in ("str", "bool"):
            right_type = isinstance(value, str if self.kind == "str" else bool)
            return right_type and (not self.choices or value in self.choices)
        if self.kind == "delays":
            return isinstance(value, list | tuple) and bool(value) and all(map(self._in_range, value))
        return self._in_range(value)

    def _in_range(self, value: Any) -> bool:
        types = (int, float) if self.kind == "float" else (int,)
        if isinstance(value, bool) or not isinstance(value, types) or not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


def _option(default: Any, section: str, text: str, kind: str, **bounds: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(section, text, kind, **bounds)})


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run; each field's range and meaning stand in its :class:`Rule` (see :func:`rules`).

    Raises:
        UserError: naming the field, its value and what is allowed.
    """

    dataset: str = _option("digits", "data", "data set; `layerpipe2 info` lists them", "str")
    data_root: str | None = _option(None, "data", "folder searched first for the data set", "str", optional=True)
    validation_fraction: float = _option(
        0.15, "data", "share of the training images held out for validation", "float", low=0, high=1, open_low=True,
        open_high=True,
    )  # fmt: skip
    augment: bool = _option(False, "data", "random crops and flips of the training images", "bool")
    batch_size: int = _option(64, "data", "images per mini-batch", "int", low=1)

    network: str = _option("mlp", "network", "network; `layerpipe2 info` lists them", "str")
    width: int | None = _option(None, "network", "base width (units or channels); none: its default", "int", low=1,
                                optional=True)  # fmt: skip

    group_size: int = _option(
        1, "pipeline", "layers per pipeline stage; strategy `sequential` always takes the whole network", "int", low=1
    )
    convention: str = _option(
        "layerpipe2", "pipeline", "delay law: 2S, S (1F1B), none, or your own `delays`", "str",
        choices=(*DELAY_LAWS, "custom"),
    )  # fmt: skip
    delays: tuple[int, ...] | None = _option(
        None, "pipeline", "delays of convention `custom`, in updates, input side first", "delays", low=0,
        optional=True,
    )  # fmt: skip
    strategy: str = _option("stash", "pipeline", "weights that the backward pass uses", "str")
    stash_epochs: float = _option(
        0.0, "pipeline", "epochs with exact weights before `strategy` takes over", "float", low=0
    )
    drain: bool = _option(False, "pipeline", "empty the pipeline at the end of every epoch", "bool")

    optimizer: str = _option("sgd", "optimizer", "optimizer", "str", choices=("sgd", "adamw"))
    lr: float = _option(0.01, "optimizer", "peak learning rate", "float", low=0, open_low=True)
    momentum: float = _option(0.9, "optimizer", "momentum of sgd", "float", low=0, high=1, open_high=True)
    nesterov: bool = _option(False, "optimizer", "Nesterov's form of momentum (sgd)", "bool")
    weight_decay: float = _option(5e-4, "optimizer", "weight decay", "float", low=0)
    schedule: str = _option(
        "cosine", "optimizer", "learning rate after the warm-up", "str", choices=("constant", "cosine")
    )
    warmup_epochs: float = _option(0.0, "optimizer", "epochs of linear warm-up", "float", low=0)
    gradient_clip_norm: float | None = _option(
        None, "optimizer", "largest gradient norm of a stage", "float", low=0, open_low=True, optional=True
    )

    epochs: int = _option(10, "run", "passes over the training images", "int", low=1)
    max_steps: int | None = _option(None, "run", "stop after so many mini-batches", "int", low=1, optional=True)
    precision: str = _option(
        "float32", "run", "arithmetic; bf16 keeps float32 master weights", "str",
        choices=("float32", "float64", "bf16"),
    )  # fmt: skip
    seed: int = _option(0, "run", "seed of the weights, the split and the order of the data", "int", low=0,
                        high=2**32 - 1)  # fmt: skip
    threads: int = _option(1, "run", "CPU threads; another number changes the last bits", "int", low=1)
    device: str = _option("auto", "run", "where to train", "str", choices=("auto", "cpu", "cuda"))
    cuda_graph: bool = _option(False, "run", "on a CUDA device, run the step as one CUDA graph", "bool")
    probe_every: int = _option(
        0, "run", "with `stash`: measure every decay rule's reconstruction error each so many steps; 0: never", "int",
        low=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, rule in rules().items():
            check(name, getattr(self, name), rule)
        if (self.convention == "custom") != (self.delays is not None):
            raise UserError("delays and convention 'custom' go together; give both or neither")
        if self.stash_epochs and self.drain:
            raise UserError("stash_epochs counts from the last fill of the pipeline, and drain fills it every epoch; "
                            "give one of them")  # fmt: skip
        if self.nesterov and self.optimizer != "sgd":
            raise UserError(f"nesterov is a form of sgd's momentum; the optimizer is {self.optimizer}; leave it out")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"warmup_epochs is {self.warmup_epochs:g}, but there are {self.epochs} epochs: the rate "
                            "would never reach its peak; give a shorter warm-up")  # fmt: skip
        if self.nesterov and not self.momentum:
            raise UserError("nesterov is a form of momentum, and momentum is 0; give a momentum above 0")
        if self.delays is not None:
            object.__setattr__(self, "delays", tuple(self.delays))

    def to_dict(self) -> dict[str, Any]:
        """Field name -> plain value (JSON and checkpoints)."""
        plain = asdict(self)
        plain["delays"] = None if self.delays is None else list(self.delays)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "configuration") -> RunConfig:
        """Configuration from plain values.

        Raises:
            UserError: naming ``source``, on an unknown key or a value out of range.
        """
        check_keys(values, rules(), source)
        for name, value in values.items():
            check(f"{source}: {name}", value, rules()[name])
        return cls(**values)


def rules() -> dict[str, Rule]:
    """Field name -> rule, in the order of :class:`RunConfig`."""
    return {f.name: f.metadata["rule"] for f in fields(RunConfig)}


def check(where: str, value: Any, rule: Rule) -> None:
    """Raise a :class:`UserError` that names ``where``, the value and what is allowed, if ``rule`` refuses it."""
    if not rule.accepts(value):
        raise UserError(f"{where} is {value!r}; give {rule.allowed()}")


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise a :class:`UserError` on the first unknown key, with the nearest known one."""
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{where}: unknown key '{key}'; {hint}")
