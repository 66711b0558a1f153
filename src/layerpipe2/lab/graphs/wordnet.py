"""The synsets of WordNet as a graph, from the files ``data.*`` of Debian's ``wordnet-base``; their form: wndb(5).

A synset is a set of words with one meaning. Pointers lead from one to others (more general, part of ...); those between
single words of two synsets (derived from, opposite) are left out. Its lexicographer file, of which there are 45
(lexnames(5)), is a coarse class: ``noun.animal``, ``verb.motion``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from layerpipe2.errors import UserError, read_file
from layerpipe2.graphs.csr import Integers

FOLDER = Path("/usr/share/wordnet")
REMEDY = "`apt-get install wordnet-base` (WordNet 3.0), or name the folder of its files data.noun, data.verb, ..."
_PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_LARGEST = 64 * 2**20


class Synset(NamedTuple):
    """A line of a file.

    Attributes:
        place: part of speech (n, v, a, r) and byte offset in its file, which is how pointers name it.
        category: number of its lexicographer file, 0 to 44.
        pointers: places that it, and not one of its words, points to.
        gloss: its definition and examples.
    """

    place: tuple[str, int]
    category: int
    pointers: list[tuple[str, int]]
    gloss: str


def read_synsets(folder: Path = FOLDER) -> list[Synset]:
    """All synsets, file by file.

    Raises:
        UserError: if a file is damaged.
        OSError: if one isn't there.
    """
    return [synset for part in _PARTS for synset in _read(folder / f"data.{part}", _PARTS[part])]


def _read(path: Path, part: str) -> Iterator[Synset]:
    for number, line in enumerate(read_file(path, _LARGEST).decode("ascii", "replace").splitlines(), 1):
        if line.startswith("  "):
            continue  # the licence
        try:
            yield _parse(line, part)
        except (ValueError, IndexError):
            raise UserError(f"{path}, line {number}, is no synset; {REMEDY}") from None


def _parse(line: str, part: str) -> Synset:
    data, _, gloss = line.partition("|")
    fields = data.split()
    at = 4 + 2 * int(fields[3], 16)  # behind the words, each with a number
    count = int(fields[at])
    pointers = [fields[i : i + 4] for i in range(at + 1, at + 1 + 4 * count, 4)]  # symbol, offset, part, words
    # A satellite adjective stands among the adjectives.
    places = [(to.replace("s", "a"), int(offset)) for _, offset, to, words in pointers if int(words, 16) == 0]
    return Synset((part, int(fields[0])), int(fields[1]), places, gloss.strip())


def pointers(synsets: list[Synset]) -> tuple[Integers, Integers]:
    """Sources and targets of all pointers, as places in the list.

    Raises:
        UserError: if a pointer leads nowhere: the files are of different versions.
    """
    numbers = {synset.place: number for number, synset in enumerate(synsets)}
    try:
        ends = [(number, numbers[place]) for number, synset in enumerate(synsets) for place in synset.pointers]
    except KeyError as error:
        raise UserError(f"WordNet: a pointer to {error.args[0]} leads nowhere; {REMEDY}") from None
    both = np.array(ends, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def words(gloss: str) -> list[str]:
    """The words of a gloss, in lower case."""
    return re.findall(r"[a-z]+", gloss.lower())
