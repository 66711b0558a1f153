"""The networks: units, shapes, sizes, initialisation and errors."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision.models import vgg16_bn

from layerpipe2.errors import UserError
from layerpipe2.lab.networks import NETWORKS, build

SHAPES = {"images": [(1, 8, 8), (1, 28, 28), (1, 1, 40), (3, 32, 32)], "text": [(1,), (12,)]}
"""Kind of input -> shapes of one sample."""
CASES = [(name, shape) for name, row in NETWORKS.items() for shape in SHAPES[row.takes]]


def samples(shape):
    """Three images, or three windows of seven tokens."""
    return torch.randn(3, *shape) if len(shape) == 3 else torch.randint(7, (3, *shape))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_every_network_maps_every_input_to_logits(name, shape):
    torch.manual_seed(0)
    units = build(name, input_shape=shape, num_classes=7, width=8)
    assert all(any(True for _ in unit.parameters()) for unit in units)
    logits = nn.Sequential(*units)(samples(shape))
    assert logits.shape == ((3, 7) if len(shape) == 3 else (3, 7, *shape))
    logits.square().sum().backward()
    gradients = [p.grad for unit in units for p in unit.parameters() if p.dim() > 1]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)
    x = samples(shape)
    for unit in units:  # no unit changes its input: that would change another stage's backward pass
        before = x.clone()
        out = unit(x)
        assert torch.equal(x, before)
        x = out.detach()
        assert not any(getattr(module, "inplace", False) for module in unit.modules())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "width", "count"),
    [
        # The figures of the common PyTorch implementations of the CIFAR form, and the MLP's formula.
        ("resnet18", (3, 32, 32), 10, None, 11_173_962),
        ("resnet18", (3, 32, 32), 100, None, 11_220_132),
        ("mlp", (1, 8, 8), 10, 16, (64 * 16 + 16) + 7 * (16 * 16 + 16) + (16 * 10 + 10)),
    ],
)
def test_number_of_parameters(name, shape, classes, width, count):
    with torch.device("meta"):
        units = build(name, input_shape=shape, num_classes=classes, width=width)
    assert sum(p.numel() for unit in units for p in unit.parameters()) == count


def test_vgg16_has_the_convolutions_of_torchvisions():
    with torch.device("meta"):  # shapes alone
        published = [m for m in vgg16_bn().features if isinstance(m, nn.Conv2d)]
        units = build("vgg16", input_shape=(3, 32, 32), num_classes=100)
        assert nn.Sequential(*units[:-1])(torch.empty(2, 3, 32, 32)).shape == (2, 512, 1, 1)
    ours = [m for unit in units for m in unit.modules() if isinstance(m, nn.Conv2d)]
    assert [m.weight.shape for m in ours] == [m.weight.shape for m in published]
    assert len([m for unit in units for m in unit.modules() if isinstance(m, nn.MaxPool2d)]) == 5


def test_the_plain_network_has_the_convolutions_of_vgg_and_nothing_that_normalises():
    plain, normalised = (build(name, input_shape=(1, 14, 14), num_classes=10, width=4) for name in ("cnn", "vgg"))
    assert not any(isinstance(m, nn.BatchNorm2d) for unit in plain for m in unit.modules())
    shapes = [
        [m.weight.shape for u in units for m in u.modules() if isinstance(m, nn.Conv2d)]
        for units in (plain, normalised)
    ]
    assert shapes[0] == shapes[1]
    pools = [[any(isinstance(m, nn.MaxPool2d) for m in u.modules()) for u in units] for units in (plain, normalised)]
    assert pools[0] == pools[1] == [False, True, False, True, False, True, False, False, False]


@pytest.mark.parametrize(("name", "pools"), [("cnn", 3), ("vgg", 3), ("vgg16", 5), ("spiking-cnn", 3)])
def test_images_of_height_1_waste_no_weight(name, pools):
    flat, square = (build(name, input_shape=(1, *size, 40), num_classes=10, width=4) for size in ((1,), (40,)))
    convs, others = ([m for u in units for m in u.modules() if isinstance(m, nn.Conv2d)] for units in (flat, square))
    assert [m.weight.shape[:2] for m in convs] == [m.weight.shape[:2] for m in others]
    assert {(m.kernel_size, m.padding) for m in convs} == {((1, 3), (0, 1))}
    assert {(m.kernel_size, m.padding) for m in others} == {((3, 3), (1, 1))}
    assert [m.kernel_size for u in flat for m in u.modules() if isinstance(m, nn.MaxPool2d)] == [(1, 2)] * pools


@pytest.mark.parametrize("name", ["cnn", "vgg"])
def test_a_1x3_kernel_does_what_the_middle_row_of_a_3x3_kernel_does(name):
    flat, square = (build(name, input_shape=(1, height, 1), num_classes=7, width=4) for height in (1, 2))
    for own, other in zip(nn.Sequential(*flat).parameters(), nn.Sequential(*square).parameters(), strict=True):
        with torch.no_grad():
            other.copy_(own) if other.shape == own.shape else other[:, :, 1:2].copy_(own)
    x = torch.randn(5, 1, 1, 9)
    torch.testing.assert_close(nn.Sequential(*flat)(x), nn.Sequential(*square)(x))


@pytest.mark.parametrize(("name", "mode"), [("cnn", "fan_in"), ("vgg", "fan_out")])
def test_taller_images_have_3x3_kernels_drawn_one_after_the_other(name, mode):
    torch.manual_seed(0)
    units = build(name, input_shape=(1, 2, 40), num_classes=10, width=4)
    torch.manual_seed(0)
    for unit, (a, b) in zip(units[:-1], pairwise((1, 4, 4, 8, 8, 16, 16, 32, 32)), strict=True):
        expected = nn.Conv2d(a, b, 3, bias=name == "cnn").weight
        nn.init.kaiming_normal_(expected, mode=mode, nonlinearity="relu")
        assert torch.equal(next(unit.parameters()), expected)


def test_convolutional_stages_halve_the_size():
    x = torch.randn(2, 3, 32, 32)
    sides = []
    for unit in build("resnet18", input_shape=(3, 32, 32), num_classes=10, width=2)[:-1]:
        x = unit(x)
        sides.append(x.shape[-1])
    assert sides == [32, 32, 32, 16, 16, 8, 8, 4, 4]


def test_the_signal_keeps_its_scale_through_the_deep_mlp():
    torch.manual_seed(0)
    units = build("mlp", input_shape=(1, 16, 16), num_classes=256, width=256)
    x = torch.randn(512, 1, 16, 16)
    power = []
    for unit in units:
        x = unit(x).detach()
        power.append(float(x.square().mean()))
    # E[relu(z)^2] = Var(z) / 2 and Var(z) = 2 E[x^2]: the mean square stays 1 in every layer, up to the draw.
    assert all(0.3 < p < 3 for p in power)


def test_rows_have_names_and_labels_of_their_own_and_the_default_width():
    assert [row.name for row in NETWORKS.values()] == [*NETWORKS]
    assert len({row.label for row in NETWORKS.values()}) == len(NETWORKS)
    units = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    assert isinstance(units[-1], nn.Linear)
    assert units[-1].in_features == NETWORKS["mlp"].default_width


WRONG_WIDTHS = (0, -1, 2.5, True, math.nan, "8", 2**32, 10**20, 10**5000)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        *(("mlp", {"width": w}, "mlp: width is .*; give an integer from 1 to 65536") for w in WRONG_WIDTHS),
        ("vgg", {"input_shape": (1, 8)}, "channels, height, width"),
        ("vgg", {"input_shape": (1, 0, 8)}, "height is 0"),
        ("vgg", {"num_classes": 0}, "num_classes is 0"),
        ("vgg", {"input_shape": 5}, r"input shape is 5; give \(channels, height, width\)"),
        (
            "mlp",
            {"input_shape": (2**16,) * 3},
            "product of the input's sizes is 281474976710656; give an integer from 1",
        ),
        (["mlp"], {}, r"unknown network \['mlp'\]; did you mean 'mlp'"),
        ("vit", {"spiking": {"threshold": 1}}, "vit isn't spiking, it has no threshold; leave it out, or take spik"),
        ("spiking-mlp", {"spiking": {"treshold": 1}}, "have no treshold; did you mean 'threshold'"),
    ],
)
def test_bad_settings_are_refused(name, changes, message):
    with pytest.raises(UserError, match=message):
        build(name, **{"input_shape": (1, 8, 8), "num_classes": 10} | changes)
