"""Pre-norm transformers as flat lists of units: a small vision transformer and a character-level GPT.

A block is one unit: both of its residual connections start and end inside it, so that no stage boundary cuts them.
Weights start as in GPT-2 (Radford et al. 2019): normal with standard deviation 0.02, divided by sqrt(2 * blocks) where
a residual branch ends, so that the depth does not scale the sum; biases start at zero. There is no dropout.
"""

from functools import partial
from math import gcd, sqrt
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = 8
MLP_FACTOR = 4
_HEAD_WIDTH = 32
_STD = 0.02


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): (N, T, width) -> (N, T, width); one of ``blocks`` of a network.

    Heads are ``width // 32``, or the largest divisor that this number and ``width`` share.
    """

    def __init__(self, width: int, causal: bool, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.heads, self.causal = gcd(width, max(1, width // _HEAD_WIDTH)), causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = _linear(width, 3 * width)
        self.project = _linear(width, width, residual_of=blocks)
        self.widen = _linear(width, MLP_FACTOR * width)
        self.narrow = _linear(MLP_FACTOR * width, width, residual_of=blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch of sequences; the input is left as it is."""
        x = x + self.project(self._attend(self.norm1(x)))
        out: Tensor = x + self.narrow(F.gelu(self.widen(self.norm2(x))))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return mixed.transpose(1, 2).reshape(batch, length, width)


class PatchEmbedding(nn.Module):
    """Images (N, C, H, W) -> tokens (N, T, width): one per square of ``patch`` pixels, plus a learnt position.

    Pixels at the right and lower edge that fill no patch are left out.
    """

    def __init__(self, input_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, width_px = input_shape
        patch = -(-min(height, width_px) // 8)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.kaiming_normal_(self.patches.weight, nonlinearity="linear")
        nn.init.zeros_(cast(Tensor, self.patches.bias))
        self.position = nn.Parameter(_STD * torch.randn((height // patch) * (width_px // patch), width))

    def forward(self, x: Tensor) -> Tensor:
        """Cut, embed, add the positions."""
        out: Tensor = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return out


class TokenEmbedding(nn.Module):
    """Token numbers int64 (N, T) -> (N, T, width), plus a learnt position; T is at most ``context``."""

    def __init__(self, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.token.weight, std=_STD)
        self.position = nn.Parameter(_STD * torch.randn(context, width))

    def forward(self, x: Tensor) -> Tensor:
        """Look up, add the positions."""
        out: Tensor = self.token(x) + self.position[: x.shape[1]]
        return out


class Head(nn.Module):
    """Normalise and classify (N, T, width): the tokens' mean -> logits (N, outputs), or each -> (N, outputs, T).

    The second form is what ``cross_entropy`` takes for the next token at every position.
    """

    def __init__(self, width: int, outputs: int, *, mean: bool) -> None:
        super().__init__()
        self.norm, self.output, self.mean = nn.LayerNorm(width), _linear(width, outputs), mean

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of sequences."""
        x = self.norm(x)
        out: Tensor = self.output(x.mean(1)) if self.mean else self.output(x).transpose(1, 2)
        return out


def vit(input_shape: tuple[int, ...], num_classes: int, width: int) -> list[nn.Module]:
    """Vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929): patches, 8 blocks, head = 10 units.

    Patches of an eighth of the shorter side (4 pixels of 32) give 64 tokens; their mean is classified.
    """
    channels, height, width_px = input_shape
    blocks = [Block(width, causal=False) for _ in range(BLOCKS)]
    return [PatchEmbedding((channels, height, width_px), width), *blocks, Head(width, num_classes, mean=True)]


def gpt(input_shape: tuple[int, ...], num_classes: int, width: int, blocks: int = BLOCKS) -> list[nn.Module]:
    """Decoder-only language model (Radford et al. 2019): embedding, 8 causal blocks, head = 10 units.

    Takes token numbers int64 (N, T) with ``input_shape = (T,)``. The head has weights of its own: weights that it
    shared with the embedding would belong to two stages.
    """
    (context,) = input_shape
    made = [Block(width, causal=True, blocks=blocks) for _ in range(blocks)]
    return [TokenEmbedding(num_classes, context, width), *made, Head(width, num_classes, mean=False)]


gpt_small = partial(gpt, blocks=4)
"""The network of nanoGPT's recipe for a CPU (Karpathy 2022, its README): 4 blocks, 6 units, width 128.

nanoGPT shares the head's weights with the embedding and has no biases; here the head has its own, and there are.
"""


def _linear(features_in: int, features_out: int, residual_of: int | None = None) -> nn.Linear:
    linear = nn.Linear(features_in, features_out)
    nn.init.normal_(linear.weight, std=_STD / sqrt(2 * residual_of) if residual_of else _STD)
    nn.init.zeros_(linear.bias)
    return linear
