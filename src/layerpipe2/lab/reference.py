"""What the tables of costs and schedules declare: networks, devices, links, sizes.

The networks are known architectures as flat lists of units, on the meta device (no weights in memory).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from layerpipe2.delays import Delays
from layerpipe2.lab.networks.mlp import mlp
from layerpipe2.planning.costs import Costs
from layerpipe2.planning.devices import DEVICE, Device, FlopDevice, Link, SystolicArray
from layerpipe2.planning.measure import measure

MICRO_BATCH = 32
"""Samples per (micro-)batch in the tables of schedules."""


@dataclass(frozen=True)
class ReferenceNetwork:
    """A declared network: its name for readers, one sample's shape, and the builder of its units."""

    label: str
    input_shape: tuple[int, int, int]
    build: Callable[[], list[nn.Module]]

    def units(self) -> list[nn.Module]:
        """The units, input side first, on the meta device."""
        with torch.device("meta"):
            return self.build()

    def costs(self, batch_size: int = MICRO_BATCH) -> Costs:
        """Costs of the network with a stage per unit."""
        work = measure(self.units(), self.input_shape, batch_size)
        return Costs(work, Delays.none(len(work)), batch_size=batch_size)


def _chain(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Layers in order as units of one weight layer each; what has no weights joins the unit before it."""
    units: list[list[nn.Module]] = [[]]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear) and any(isinstance(m, nn.Conv2d | nn.Linear) for m in units[-1]):
            units.append([])
        units[-1].append(layer)
    return [nn.Sequential(*unit) for unit in units]


def _vision(name: str) -> Any:
    """A network of torchvision, which is imported here: that takes longer than to draw a figure."""
    return import_module("torchvision.models").get_model(name, weights=None)


def _with_classifier(model: Any) -> list[nn.Module]:
    return _chain([*model.features, model.avgpool, nn.Flatten(), *model.classifier])


def _residual(model: Any) -> list[nn.Module]:
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    blocks = [block for group in (model.layer1, model.layer2, model.layer3, model.layer4) for block in group]
    return [stem, *blocks, nn.Sequential(model.avgpool, nn.Flatten(), model.fc)]


_IMAGE = (3, 224, 224)

REFERENCE: dict[str, ReferenceNetwork] = {
    "mlp": ReferenceNetwork("MLP 8 × 1024", (1, 28, 28), lambda: mlp((1, 28, 28), 10, width=1024)),
    "alexnet": ReferenceNetwork("AlexNet", _IMAGE, lambda: _with_classifier(_vision("alexnet"))),
    "vgg16": ReferenceNetwork("VGG-16", _IMAGE, lambda: _with_classifier(_vision("vgg16"))),
    "resnet18": ReferenceNetwork("ResNet-18", _IMAGE, lambda: _residual(_vision("resnet18"))),
    "resnet50": ReferenceNetwork("ResNet-50", _IMAGE, lambda: _residual(_vision("resnet50"))),
}
"""Units: 9 linear; 8 and 16 layers; 10 and 18 with a residual block as one unit. ImageNet sizes but for the MLP."""


INPUT_SHAPE, CLASSES, BATCH_SIZE = (3, 32, 32), 100, 128
"""Samples and mini-batches of the table of partitions."""
RATE = 10e12
"""FLOP/s of the processors in the table of partitions."""
LINKS: Mapping[str, Link] = {"32 GB/s": Link(32e9, 1e-6), "8 GB/s": Link(8e9, 1e-6), "2 GB/s": Link(2e9, 1e-6)}
"""Links between neighbours, each way, with 1 us latency."""
DEVICES: Mapping[str, Device] = {
    "128 × 128, output st.": DEVICE,
    "128 × 128, weight st.": SystolicArray(128, 128, "ws", 1e9, Link(64e9, 1e-6)),
    "32 × 32, output st.": SystolicArray(32, 32, "os", 1e9, Link(64e9, 1e-6)),
    "FLOP/s only": FlopDevice(2 * 128 * 128 * 1e9, Link(64e9, 1e-6)),
    "128 × 128, free links": SystolicArray(128, 128, "os", 1e9),
    "128 × 128, slow links": SystolicArray(128, 128, "os", 1e9, Link(8e9, 1e-5)),
}
"""Devices over which the gain of LayerPipe is looked at; links of 64 GB/s and 1 us, slow: 8 GB/s and 10 us."""


def efficient(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row is on the Pareto front of communication and computation (less of both is better)."""
    sent, done = row["communication"], row["computation"]
    no_worse = [r for r in rows if r["communication"] <= sent and r["computation"] <= done]
    return all(r["communication"] == sent and r["computation"] == done for r in no_worse)
