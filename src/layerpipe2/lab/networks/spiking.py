"""Spiking networks: a deep fully connected one, a VGG-style one and a residual one, with neurons in place of ReLUs.

What travels between units is spikes, 0 or 1, of all time steps of a mini-batch: (T N, ...), time outside (see
:mod:`layerpipe2.spiking.layers`). The convolutional ones have batch normalisation over samples and time steps, as the
networks that they are made from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from math import sqrt
from typing import Any

from torch import nn

from layerpipe2.errors import UserError, did_you_mean, look_up
from layerpipe2.lab.networks.convolutional import resnet_small, vgg
from layerpipe2.lab.networks.layers import output_linear, relu_linear
from layerpipe2.spiking import CODINGS, READOUTS, Coded, Neuron, Neurons, Readout
from layerpipe2.spiking.layers import spiking

HIDDEN_LAYERS = 8
_STEPS = 4
_DRIVE = 8
"""Of the initial weights, whose variance is that times (1 - a²)(1 - b²) θ² / fan_in: a membrane without input goes to
θ / 2 by its bias, and spikes at the rate 1/4 drive it so that it fires at about that rate, too, in every layer
(measured, four to eight time steps); what variance 2 / fan_in is to a ReLU."""


@dataclass(frozen=True)
class Spiking:
    """What a spiking network is made of, beside its width.

    Attributes:
        neuron: its constants.
        time_steps: of each sample; None: 4, or the images' width if that is time.
        coding: of the images, a key of ``layerpipe2.spiking.CODINGS``.
        readout: of the classes, a key of ``layerpipe2.spiking.READOUTS``.
        seed: of a random coding.

    Raises:
        UserError: if one is not what it may be, or time steps are given and the images' width is time.
    """

    neuron: Neuron = field(default_factory=Neuron)
    time_steps: int | None = None
    coding: str = "static"
    readout: str = "membrane"
    seed: int = 0

    def __post_init__(self) -> None:
        look_up(CODINGS, self.coding, "coding")
        look_up(READOUTS, self.readout, "readout")
        if self.coding == "columns" and self.time_steps is not None:
            raise UserError("time_steps is given, but with coding 'columns' the images' width is time; leave one out")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Spiking":
        """From one flat mapping of this class's and the neuron's fields.

        Raises:
            UserError: on an unknown name, too.
        """
        neuron = {one.name for one in fields(Neuron)}
        for name in settings:
            if name not in SETTINGS and name not in ("seed", "slope"):
                raise UserError(f"spiking networks have no {name}; {did_you_mean(name, SETTINGS)}")
        constants = {name: value for name, value in settings.items() if name in neuron}
        return cls(Neuron(**constants), **{name: settings[name] for name in settings.keys() - neuron})

    def steps(self, input_shape: tuple[int, ...]) -> int:
        """T for images of this shape."""
        if self.coding == "columns":
            return input_shape[-1]
        return _STEPS if self.time_steps is None else self.time_steps


SETTINGS = ("time_steps", "membrane_decay", "synapse_decay", "threshold", "reset", "surrogate", "coding", "readout")
"""The settings of a spiking network in a run's configuration."""


def spiking_mlp(
    input_shape: tuple[int, ...], num_classes: int, width: int, made: Spiking, hidden_layers: int = HIDDEN_LAYERS
) -> list[nn.Module]:
    """Eight hidden layers of ``width`` neurons, and a read-out: 9 units, no normalisation."""
    channels, height, columns = input_shape
    features = channels * height * (1 if made.coding == "columns" else columns)
    a, b, threshold = made.neuron.synapse_decay, made.neuron.membrane_decay, made.neuron.threshold
    layers = [relu_linear(features, width), *(relu_linear(width, width) for _ in range(hidden_layers - 1))]
    for layer in layers:
        nn.init.constant_(layer.bias, threshold * (1 - a) * (1 - b) / 2)
    for layer in layers[1:]:
        nn.init.normal_(layer.weight, std=threshold * sqrt(_DRIVE * (1 - a**2) * (1 - b**2) / width))
    hidden = [nn.Sequential(layer, nn.ReLU()) for layer in layers[1:]]
    first = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU())
    return _with_neurons([first, *hidden, output_linear(width, num_classes)], input_shape, made)


spiking_mlp_small = partial(spiking_mlp, hidden_layers=HIDDEN_LAYERS // 2)
""":func:`spiking_mlp` with four hidden layers: 5 units."""


def spiking_cnn(input_shape: tuple[int, ...], num_classes: int, width: int, made: Spiking) -> list[nn.Module]:
    """The layers of ``vgg``, eight of them with neurons, and a read-out: 9 units."""
    return _with_neurons(vgg(_seen(input_shape, made), num_classes, width), input_shape, made)


def spiking_resnet(input_shape: tuple[int, ...], num_classes: int, width: int, made: Spiking) -> list[nn.Module]:
    """The layers of ``resnet-small``: stem, 6 blocks, read-out = 8 units.

    A block's shortcut and its second convolution drive its last neurons together.
    """
    return _with_neurons(resnet_small(_seen(input_shape, made), num_classes, width), input_shape, made)


def _seen(input_shape: tuple[int, ...], made: Spiking) -> tuple[int, ...]:
    """Shape of the images that the first layer sees in one time step."""
    return (*input_shape[:-1], 1) if made.coding == "columns" else input_shape


def _with_neurons(units: list[nn.Module], input_shape: tuple[int, ...], made: Spiking) -> list[nn.Module]:
    steps = made.steps(input_shape)
    neurons = partial(Neurons, made.neuron, steps)
    first, *hidden, head = units
    if made.coding == "static":
        first = spiking(first, partial(neurons, constant=True))
    else:
        first = nn.Sequential(Coded(made.coding, steps, made.seed), spiking(first, neurons))
    return [first, *(spiking(unit, neurons) for unit in hidden), Readout(head, made.neuron, steps, made.readout)]
