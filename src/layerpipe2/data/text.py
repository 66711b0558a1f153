"""Text as a data set: windows of characters, each the question for the next one.

``python-docs`` is the English reference text that every CPython carries for ``help()``: the module
``pydoc_data.topics``, written by the Python documentation's authors (PSF licence). Some topics contain others, so a
paragraph counts once; what is left is about 400,000 characters. The text grows a little with each version of Python,
which a run's record names.

The vocabulary is the same for every text and version: newline, the printable ASCII characters, and one number for all
the others. The last tenth of the text is for testing.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from layerpipe2.data.types import Data
from layerpipe2.errors import UserError

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(ALPHABET) + 1
CONTEXT = 128
"""Characters of a window."""
TEST_SHARE = 0.1


@dataclass(frozen=True)
class TextSpec:
    """A text by name: how it is read, where it comes from, and what to do if it can't be read."""

    name: str
    label: str
    read: Callable[[], str]
    source: str
    remedy: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(T,): characters of a window."""
        return (CONTEXT,)

    @property
    def num_classes(self) -> int:
        """Size of the vocabulary."""
        return VOCABULARY


def paragraphs(topics: Mapping[str, str]) -> str:
    """The texts in the order of their names, without any paragraph that came before."""
    return "\n\n".join(dict.fromkeys(p for name in sorted(topics) for p in topics[name].split("\n\n")))


def encode(text: str) -> Tensor:
    """Numbers of the characters, uint8 (number of characters,)."""
    known = {character: number for number, character in enumerate(ALPHABET)}
    return torch.tensor([known.get(character, len(ALPHABET)) for character in text], dtype=torch.uint8)


def load_text(spec: TextSpec) -> Data:
    """Read a text and cut it into windows.

    Raises:
        UserError: if the text is missing.
    """
    try:
        text = spec.read()
    except ImportError as error:
        raise UserError(f"{spec.name}: this Python has no module {error.name}; {spec.remedy}") from None
    tokens = encode(text)
    count = (len(tokens) - 1) // CONTEXT
    x = tokens[: count * CONTEXT].view(count, CONTEXT)
    y = tokens[1 : count * CONTEXT + 1].view(count, CONTEXT).long()
    train = count - round(TEST_SHARE * count)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    source = f"{spec.source} ({len(text)} characters, sha256 {digest})"
    return Data(spec.name, source, x[:train], y[:train], x[train:], y[train:], VOCABULARY)


_ROWS = (
    TextSpec(
        "python-docs",
        "python-docs",
        lambda: paragraphs(import_module("pydoc_data.topics").topics),
        f"pydoc_data.topics of Python {platform.python_version()}",
        remedy="install a complete Python (on Debian: apt-get install libpython3-stdlib)",
    ),
)

TEXTS: dict[str, TextSpec] = {spec.name: spec for spec in _ROWS}
"""The texts by name."""
