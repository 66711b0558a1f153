"""What can be done with some processes, in one table: how long a mini-batch takes in each way, and what it holds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from layerpipe2.errors import UserError
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.machine import Machine
from layerpipe2.planning.predict import Predictor
from layerpipe2.planning.variants import Variant


@dataclass(frozen=True)
class Choice:
    """One way to train.

    Attributes:
        variant: see :mod:`layerpipe2.planning.variants`.
        seconds: predicted, per mini-batch in the steady state.
        held_bytes: of the process that holds most: weights, gradients, optimizer, activations, history, as modelled.
    """

    variant: str
    seconds: float
    held_bytes: float

    @property
    def label(self) -> str:
        """The choice as readers see it."""
        return Variant.parse(self.variant).label


def choices(
    predictor: Predictor, machine: Machine, strategies: Iterable[str], *, one_host: bool, optimizer_copies: float
) -> list[Choice]:
    """Return all that the predictor's processes could do with its mini-batches, one process first.

    Args:
        predictor: of the network.
        machine: with the link that the processes have.
        strategies: weight histories of the asynchronous pipeline, with its options if any, as in ``stash/recompute``.
        one_host: whether one process could take the others' threads, on a machine where they can be timed.
        optimizer_copies: :func:`optimizer_copies`.
    """
    found = []
    for name in _names(predictor, strategies, one_host=one_host):
        # A layer whose backward pass can't be split has no zero-bubble schedule.
        with suppress(UserError) if name.startswith("zero-bubble") else nullcontext():
            seconds = predictor.seconds(name, machine)
            assert seconds is not None, f"{name} is not modelled"
            found.append(Choice(name, seconds, _held(name, predictor, optimizer_copies)))
    return found


def _names(predictor: Predictor, strategies: Iterable[str], *, one_host: bool) -> Iterator[str]:
    processes, parts = predictor.processes, 2 * predictor.processes
    yield "plain"
    if one_host:
        yield f"threads/{processes * predictor.threads}"
    if predictor.batch_size % processes == 0:
        yield "ddp"
    if predictor.batch_size % parts == 0:
        yield from (f"{kind}/{parts}" for kind in ("gpipe", "1f1b", "zero-bubble"))
    yield from (f"async/{strategy}" for strategy in strategies)


def _held(name: str, predictor: Predictor, optimizer_copies: float) -> float:
    form, processes, stages = Variant.parse(name), predictor.processes, predictor.cut(name).stages
    law, strategy = form.delays(processes), form.strategy or "latest"
    costs, copies = Costs(stages, law, strategy, recomputes=form.recompute), 2 + optimizer_copies
    if form.kind == "ddp":  # the gradients lie in its buckets, too
        return (copies + 1) * stages[0].parameter_bytes + stages[0].saved_bytes / processes
    held = []
    for k, (stage, history) in enumerate(zip(stages, costs.history_bytes, strict=True)):
        activations: float = costs.activation_bytes[k]
        if form.kind in ("1f1b", "zero-bubble"):  # the latter keeps micro-batches until their weights' gradients
            ahead = len(stages) - (k if form.kind == "1f1b" else 0)
            activations *= min(ahead / form.micro_batches, 1)
        held.append(copies * stage.parameter_bytes + activations + history)
    return max(held)


def optimizer_copies(make_optimizer: Callable[[Sequence[nn.Parameter]], Optimizer]) -> float:
    """Return how many copies of the weights an optimizer keeps: 1 of SGD with momentum, 2 of Adam."""
    weights = nn.Parameter(torch.zeros(64))
    weights.grad = torch.zeros_like(weights)
    optimizer = make_optimizer([weights])
    optimizer.step()
    kept = optimizer.state[weights].values()
    return sum(value.numel() // weights.numel() for value in kept if isinstance(value, torch.Tensor))
