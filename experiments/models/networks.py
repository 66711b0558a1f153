"""Networks of three libraries and one written here, with random weights, and mini-batches of noise for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES, CLASSES, TOKENS = 6, 10, 97

Parts = dict[str, Tensor]
"""A mini-batch: inputs by their names in the network's forward, and ``labels``."""


@dataclass(frozen=True)
class Model:
    """A network and how it is cut.

    Attributes:
        make: makes it.
        batch: makes a mini-batch from a generator.
        how: what ``cut`` has to be told beside the number of stages.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Parts]
    how: dict[str, Any] = field(default_factory=dict)

    def example(self) -> Any:
        """What ``cut`` gets: the input, or a mapping of several."""
        inputs = self.parts(0)
        del inputs["labels"]
        return next(iter(inputs.values())) if len(inputs) == 1 else inputs

    def parts(self, seed: int) -> Parts:
        """A mini-batch, drawn anew."""
        return self.batch(torch.Generator().manual_seed(seed))


class Unet(nn.Module):
    """Three resolutions with a skip connection each: images (B, 3, H, W) -> classes of pixels (B, classes, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(map(_block, [3, *widths], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(n, n // 2, 2, 2) for n in widths[:0:-1])
        self.join = nn.ModuleList(_block(n, n // 2) for n in widths[:0:-1])
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images to classes of pixels."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(nn.functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        out: Tensor = self.head(x)
        return out


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def _images(size: int, *, pixels: bool = False) -> Callable[[torch.Generator], Parts]:
    def batch(generator: torch.Generator) -> Parts:
        x = torch.randn(SAMPLES, 3, size, size, generator=generator)
        shape = (SAMPLES, size, size) if pixels else (SAMPLES,)
        return {"x": x, "labels": torch.randint(CLASSES, shape, generator=generator)}

    return batch


def _text(labels: str) -> Callable[[torch.Generator], Parts]:
    """Padded texts; labels are a class each, a token at each place, or those of a shorter text that is written."""

    def batch(generator: torch.Generator) -> Parts:
        tokens = torch.randint(3, TOKENS, (SAMPLES, 24), generator=generator)
        lengths = torch.randint(16, 25, (SAMPLES, 1), generator=generator)
        parts = {"input_ids": tokens, "attention_mask": (torch.arange(24) < lengths).long()}
        if labels == "written":
            parts["decoder_input_ids"] = tokens[:, :15]
            return parts | {"labels": tokens[:, 1:16]}
        return parts | {"labels": tokens[:, 0] % CLASSES if labels == "class" else tokens}

    return batch


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("torchvision.models").get_model(name, num_classes=CLASSES, **options)


def _vit() -> nn.Module:
    network: nn.Module = importlib.import_module("torchvision.models").VisionTransformer(
        image_size=64, patch_size=16, num_layers=12, num_heads=4, hidden_dim=128, mlp_dim=512, num_classes=CLASSES
    )
    return network


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("timm").create_model(name, num_classes=CLASSES, **options)


def _transformers(name: str, **config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = importlib.import_module("transformers")
        kind = getattr(library, name)
        network: nn.Module = kind(kind.config_class(vocab_size=TOKENS, bos_token_id=1, eos_token_id=2, **config))
        return network

    return make


_WIDE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
_GPT = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 32}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4, "pad_token_id": 0}
_BERT = {"num_labels": CLASSES, "max_position_embeddings": 32}
_ALONE = {"use_cache": False, "tie_word_embeddings": False}
_FOUR = {"use_cache": False}

MODELS = {
    "torchvision resnet18": Model(_torchvision("resnet18"), _images(64)),
    "torchvision resnet50": Model(_torchvision("resnet50"), _images(64)),
    "torchvision vgg11_bn": Model(_torchvision("vgg11_bn"), _images(32)),
    "torchvision VisionTransformer": Model(_vit, _images(64)),
    "torchvision convnext_tiny": Model(_torchvision("convnext_tiny"), _images(64)),
    "torchvision swin_t": Model(_torchvision("swin_t"), _images(64)),
    "timm vit_tiny_patch16_224": Model(_timm("vit_tiny_patch16_224", img_size=64), _images(64)),
    "timm convnext_atto": Model(_timm("convnext_atto"), _images(64)),
    "timm mixer_s32_224": Model(_timm("mixer_s32_224", img_size=64), _images(64)),
    "timm efficientnet_b0": Model(_timm("efficientnet_b0"), _images(64)),
    "transformers GPT-2": Model(_transformers("GPT2LMHeadModel", **_GPT, **_ALONE), _text("token")),
    "transformers GPT-2, tied": Model(
        _transformers("GPT2LMHeadModel", **_GPT, use_cache=False), _text("token"), {"untie": True}
    ),
    "transformers Llama": Model(_transformers("LlamaForCausalLM", **_WIDE, **_ALONE), _text("token")),
    "transformers BERT": Model(_transformers("BertForSequenceClassification", **_WIDE, **_BERT), _text("class")),
    "transformers T5": Model(
        _transformers("T5ForConditionalGeneration", **_T5, **_FOUR),
        _text("written"),
        {"output": "logits", "untie": True},
    ),
    "U-Net": Model(lambda: Unet(16), _images(64, pixels=True)),
}
"""Name -> network."""
