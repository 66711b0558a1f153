"""A deep multi-layer perceptron: the fully connected network of the comparison."""

from math import prod

from torch import nn

from layerpipe2.lab.networks.layers import output_linear, relu_linear

HIDDEN_LAYERS = 8


def mlp(input_shape: tuple[int, ...], num_classes: int, width: int) -> list[nn.Module]:
    """Eight hidden layers of ``width`` features with ReLU, and an output layer: 9 units, no normalisation.

    The first unit flattens the images (N, C, H, W) itself, so that every unit owns weights.
    """
    first = nn.Sequential(nn.Flatten(), relu_linear(prod(input_shape), width), nn.ReLU(inplace=False))
    hidden = [nn.Sequential(relu_linear(width, width), nn.ReLU(inplace=False)) for _ in range(HIDDEN_LAYERS - 1)]
    return [first, *hidden, output_linear(width, num_classes)]
