"""Names for readers: of networks, data sets, delay conventions, schedules, partitions."""

from __future__ import annotations

_NETWORKS = {"mlp": "MLP", "vgg": "VGG", "vgg16": "VGG-16", "resnet18": "ResNet-18", "resnet-small": "ResNet (small)",
             "vit": "ViT", "gpt": "GPT (characters)"}  # fmt: skip
_CONVENTIONS = {"layerpipe2": "LayerPipe2, 2S", "pipedream": "PipeDream, S", "none": "no delay"}
_SCHEDULES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "interleaved 1F1B",
    "zb-h1": "zero-bubble H1",
    "pipedream": "PipeDream",
    "layerpipe": "LayerPipe (our reading)",
    "layerpipe2": "LayerPipe2",
}
_DATASETS = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def network_label(name: str) -> str:
    """A network's name for readers."""
    return _NETWORKS.get(name, name)


def dataset_label(name: str) -> str:
    """A data set's name for readers."""
    return _DATASETS.get(name, name)


def convention_label(name: str) -> str:
    """A delay convention's name for readers, with its law; S is the number of downstream stages."""
    return _CONVENTIONS.get(name, name)


def schedule_label(name: str) -> str:
    """A pipeline schedule's name for readers."""
    return _SCHEDULES.get(name, name)


def setting(dataset: str, convention: str) -> str:
    """What every result must be read with: the data and the delay convention."""
    return f"Data: {dataset_label(dataset)}; delays: {convention_label(convention)}."


def stages_label(num_stages: int, group_size: int) -> str:
    """How a partition is named on axes."""
    units = f"up to {group_size} units" if group_size > 1 else "1 unit"
    return f"{num_stages} stages ({units} each)"
