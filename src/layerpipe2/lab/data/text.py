"""Text as a data set: windows of characters, each the question for the next one.

``python-docs`` is the English reference text that every CPython carries for ``help()``: the module
``pydoc_data.topics``, written by the Python documentation's authors (PSF licence). Some topics contain others, so a
paragraph counts once; what is left is about 400,000 characters. The text grows a little with each version of Python,
which a run's record names.

``wordnet`` is the glosses of WordNet (Princeton, Fellbaum 1998): definitions and examples of some 117,000 meanings, in
the files of Debian's ``wordnet-base``. A gloss counts once, and they are ordered by a hash, so that every part of the
text has the same mixture; 30,000 of them are taken, 2.3 million characters, for runs of minutes.

``tiny-shakespeare`` is the text of char-rnn (Karpathy 2015), on which nanoGPT's recipe for a CPU has a published loss:
one file, 1,115,394 characters, which has to be downloaded.

The vocabulary is the same for every text and version: newline, the printable ASCII characters, and one number for all
the others. The last tenth of the text is for testing.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from layerpipe2.errors import UserError, read_file
from layerpipe2.lab.data.types import Data

if TYPE_CHECKING:
    from torch import Tensor

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(ALPHABET) + 1
TEST_SHARE = 0.1
_LARGEST = 64 * 2**20  # bytes of a file of WordNet; the largest has 15 million


def _refused(what: str) -> UserError:
    return UserError(f"wordnet: a file of it is {what}; reinstall wordnet-base")


@dataclass(frozen=True)
class TextSpec:
    """A text by name: how it is read, where it comes from, and what to do if it can't be read.

    Attributes:
        read: the text, from the folder that was named or else from where it always lies; gives the source as well.
        context: characters of a window.
        ships: whether the text comes with Python.
        num_classes: size of the vocabulary.
    """

    name: str
    label: str
    read: Callable[[Path | None], tuple[str, str]]
    remedy: str
    context: int = 128
    ships: bool = False
    num_classes: int = VOCABULARY

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(T,): characters of a window."""
        return (self.context,)


def paragraphs(topics: Mapping[str, str]) -> str:
    """The texts in the order of their names, without any paragraph that came before."""
    return "\n\n".join(dict.fromkeys(p for name in sorted(topics) for p in topics[name].split("\n\n")))


def encode(text: str) -> Tensor:
    """Numbers of the characters, uint8 (number of characters,)."""
    import torch

    known = {character: number for number, character in enumerate(ALPHABET)}
    return torch.tensor([known.get(character, len(ALPHABET)) for character in text], dtype=torch.uint8)


def load_text(spec: TextSpec, root: Path | None = None) -> Data:
    """Read a text, below the folder ``root`` if it can lie there, and cut it into windows.

    Raises:
        UserError: if the text is missing or damaged.
    """
    try:
        text, source = spec.read(root)
    except ImportError as error:
        raise UserError(f"{spec.name}: this Python has no module {error.name}; {spec.remedy}") from None
    except OSError as error:
        raise UserError(f"{spec.name}: {error.filename} can't be read ({error.strerror}); {spec.remedy}") from None
    tokens, context = encode(text), spec.context
    count = (len(tokens) - 1) // context
    if count < 1 / TEST_SHARE:
        raise UserError(f"{spec.name}: {source} has {len(text)} characters, too few to train on; {spec.remedy}")
    x = tokens[: count * context].view(count, context)
    y = tokens[1 : count * context + 1].view(count, context).long()
    train = count - round(TEST_SHARE * count)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    source = f"{source} ({len(text)} characters, sha256 {digest})"
    return Data(spec.name, source, x[:train], y[:train], x[train:], y[train:], VOCABULARY)


def _python_docs(root: Path | None) -> tuple[str, str]:
    text = paragraphs(import_module("pydoc_data.topics").topics)
    return text, f"pydoc_data.topics of Python {platform.python_version()}"


WORDNET = Path("/usr/share/wordnet")
GLOSSES = 30_000


def _wordnet(root: Path | None) -> tuple[str, str]:
    """Glosses, one in a line, from ``root/wordnet``, ``root`` or the place of Debian's package."""
    places = [*([root / "wordnet", root] if root else []), WORDNET]
    folder = next((place for place in places if (place / "data.noun").exists()), WORDNET)
    files = (read_file(folder / f"data.{part}", _LARGEST, _refused) for part in ("noun", "verb", "adj", "adv"))
    lines = (line for file in files for line in file.decode("ascii", "replace").splitlines())
    found = {line.split("|", 1)[1].strip() for line in lines if "|" in line and not line.startswith("  ")}
    ordered = sorted(found, key=lambda gloss: hashlib.sha256(gloss.encode()).digest())
    return "\n".join(ordered[:GLOSSES]), f"WordNet in {folder}"


SHAKESPEARE = Path("tiny-shakespeare.txt")
SHAKESPEARE_MD5 = "6fb458f1232090904fb40fe944165e91"
_CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_DOWNLOAD = f"`curl -o {SHAKESPEARE} {_CHAR_RNN}`, and name its folder (--data-root)"


def _tiny_shakespeare(root: Path | None) -> tuple[str, str]:
    """The file ``tiny-shakespeare.txt`` in ``root``, if its content is the published one."""
    path = (root or Path()) / SHAKESPEARE
    found = read_file(path, _LARGEST, lambda what: UserError(f"tiny-shakespeare: {path} is {what}; {_DOWNLOAD}"))
    if hashlib.md5(found, usedforsecurity=False).hexdigest() != SHAKESPEARE_MD5:
        raise UserError(f"tiny-shakespeare: {path} is damaged, or another text; {_DOWNLOAD}")
    return found.decode("ascii"), "tiny Shakespeare of char-rnn"


_ROWS = (
    TextSpec(
        "python-docs",
        "python-docs",
        _python_docs,
        remedy="install a complete Python (on Debian: apt-get install libpython3-stdlib)",
        ships=True,
    ),
    TextSpec(
        "wordnet",
        "WordNet's glosses",
        _wordnet,
        remedy="`apt-get install wordnet-base`, or name the folder of its files (--data-root)",
        context=64,
    ),
    TextSpec("tiny-shakespeare", "tiny Shakespeare", _tiny_shakespeare, remedy=_DOWNLOAD, context=64),
)

TEXTS: dict[str, TextSpec] = {spec.name: spec for spec in _ROWS}
"""The texts by name."""
