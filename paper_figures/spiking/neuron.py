"""A spiking neuron over time: membrane, spikes and gradient, as the library computes them."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from layerpipe2.spiking import Neuron, fire, step
from layerpipe2.spiking.neuron import at_rest
from paper_figures import style

STEPS, ASKED = 40, 30
"""Time steps, and the one at whose spike a gradient of 1 arrives."""


NEURONS = {
    "one pole, reset by subtraction": (Neuron(0.85), "#0072b2", "-"),
    "one pole, reset to zero": (Neuron(0.85, reset="zero"), "#009e73", (0, (4, 2))),
    "two poles, reset by subtraction": (Neuron(0.85, 0.6, threshold=2.0), "#d55e00", (0, (1, 1))),
}


def inputs() -> Tensor:
    """A current that begins, swells and ends."""
    t = torch.arange(STEPS, dtype=torch.float64)
    return 0.3 * (t >= 4) * (t < 34) * (1 + torch.sin(t / 6) ** 2)


def traces(neuron: Neuron) -> dict[str, Tensor]:
    """Membrane in thresholds, spikes, and the gradient that a spike's of 1 gives the inputs, each (T,)."""
    x = inputs().requires_grad_()
    spikes = fire(neuron, x)
    (gradient,) = torch.autograd.grad(spikes[ASKED], x)
    state, membrane = at_rest(x[0]), []
    for now in x.detach():
        _, state = step(neuron, now, state)
        membrane.append(state.membrane / neuron.threshold)
    return {"membrane": torch.stack(membrane).detach(), "spikes": spikes.detach(), "gradient": gradient}


@style.drawn
def neuron() -> Figure:
    """Three panels over the time steps; a line for every neuron of :data:`NEURONS`."""
    figure, axes = style.canvas(4.6, rows=3, sharex=True, height_ratios=(3, 1, 2))
    for number, (made, colour, dash) in enumerate(NEURONS.values()):
        _draw(axes[:, 0], number, traces(made), {"color": colour, "linestyle": dash})
    axes[0, 0].plot(inputs(), color="#777777", linewidth=0.8)
    axes[0, 0].axhline(1, color="#777777", linewidth=0.6)
    axes[0, 0].set(ylabel="membrane V / θ\n(grey: input)")
    axes[1, 0].set(ylabel="spikes", yticks=[], ylim=(-0.6, len(NEURONS) - 0.4))
    axes[2, 0].set(ylabel="gradient of the input", xlabel="time step")
    style.legend(figure, [style.handle(name, color=c, linestyle=d) for name, (_, c, d) in NEURONS.items()], 3)
    style.note(figure, f"A gradient of 1 arrives at the spike of step {ASKED} and goes back in time from there.")
    return figure


def _draw(axes: Any, number: int, found: dict[str, Tensor], look: style.Look) -> None:
    axes[0].plot(found["membrane"], **look)
    at = found["spikes"].nonzero().flatten()
    axes[1].plot(at, torch.full_like(at, number), linestyle="", marker="|", markersize=7, color=look["color"])
    axes[2].plot(found["gradient"], **look)
