"""Spiking neurons as IIR filters, and the coding of values as spikes.

`Neuron` holds a neuron's constants, `fire` runs neurons over all time steps (one filter for both directions), `step`
and `unrolled` do the same one step at a time by plain autograd, and `integrate` is the neuron that never fires, which
reads results out. `CODINGS` turns images into what a spiking network receives over time. `Coded`, `Neurons` and
`Readout` are the layers that make an ordinary network a spiking one.
"""

from layerpipe2.spiking.coding import CODINGS
from layerpipe2.spiking.fire import fire, integrate
from layerpipe2.spiking.layers import READOUTS, Coded, Neurons, Readout
from layerpipe2.spiking.neuron import RESETS, SURROGATES, Neuron, State, step, unrolled

__all__ = [
    "CODINGS",
    "READOUTS",
    "RESETS",
    "SURROGATES",
    "Coded",
    "Neuron",
    "Neurons",
    "Readout",
    "State",
    "fire",
    "integrate",
    "step",
    "unrolled",
]
