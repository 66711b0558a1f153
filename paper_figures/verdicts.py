"""A verdict: the answer of the records to a claim or question. One type and one vocabulary for all pages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Answer(StrEnum):
    """What the records say; :class:`Words` has the word for it. Each value is the name of a field there."""

    YES = "yes"
    IN_PART = "in_part"
    NO = "no"
    UNDECIDED = "undecided"
    NOT_TESTED = "not_tested"


@dataclass(frozen=True)
class Words:
    """How the answers to one kind of question read; ``{n}`` stands for the number of units of the test."""

    yes: str
    no: str
    in_part: str = "in part"
    undecided: str = "inconclusive (n={n})"
    not_tested: str = "not tested"

    def word(self, answer: Answer, n: int = 0) -> str:
        """The word for an answer."""
        text: str = getattr(self, answer)
        return text.format(n=n)


CLAIM = Words("reproduced", "not reproduced")
AIM = Words("reached", "missed", "reached in part", not_tested="not measured")
SMALLER = Words("smaller", "not smaller", not_tested="not measured")
MODEL = Words("as modelled", "not as modelled", not_tested="not measured")
FASTER = Words("faster", "slower", undecided="no difference shown", not_tested="not measured")
WORTH_IT = Words("pays", "costs", undecided="no difference shown", not_tested="not measured")


@dataclass(frozen=True)
class Verdict:
    """A claim, question or aim and what the records say about it.

    Attributes:
        question: the claim, question or aim.
        answer: what the records say.
        words: the vocabulary of this kind of question.
        n: number of units of the test, named where it decides nothing.
        key: C1 ... C8 of a claim of the abstract, as numbered in the project's reading of it.
        test: how the answer is found from the data.
        evidence: sentences with the numbers.
        caveat: under which conditions the answer holds, or what a reader of it alone must know; empty if nothing.
        details: the answer in full, where one word for all of it would say too little.
        parts: of a claim with a key, the paragraphs of its docstring that say how it is tested.
        demands: values that these name in braces.
    """

    question: str = ""
    answer: Answer = Answer.NOT_TESTED
    words: Words = CLAIM
    n: int = 0
    key: str = ""
    test: str = ""
    evidence: tuple[str, ...] = ()
    caveat: str = ""
    details: str = ""
    parts: tuple[str, ...] = ("Test",)
    demands: Mapping[str, Any] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The answer for readers."""
        return self.details or self.words.word(self.answer, self.n)

    @property
    def word_and_caveat(self) -> str:
        """The answer where a reader sees no evidence beside it."""
        return self.word + (f" ({self.caveat})" if self.caveat else "")


def words_by_name(verdicts: Iterable[Verdict]) -> dict[str, str]:
    """Key of the claim, or else the question -> the answer's word."""
    return {verdict.key or verdict.question: verdict.word for verdict in verdicts}


OUTCOMES: Mapping[str, Answer] = {
    "equivalent": Answer.YES,
    "better": Answer.YES,
    "no loss": Answer.YES,
    "keeps": Answer.YES,
    "worse": Answer.NO,
    "diverged": Answer.NO,
    "loses": Answer.NO,
    "diverges": Answer.NO,
}
"""Outcome of a comparison with exact stashing -> answer to whether nothing is lost; any other decides nothing."""


def exact(violations: int, n: int) -> Answer:
    """The answer of an exact test with n cases."""
    if n == 0:
        return Answer.UNDECIDED
    return Answer.NO if violations else Answer.YES


def both(*answers: Answer) -> Answer:
    """A claim of several parts: no if one part is, undecided if one part is."""
    if Answer.NO in answers:
        return Answer.NO
    return Answer.YES if set(answers) <= {Answer.YES} else Answer.UNDECIDED


def beside_one(low: float, high: float) -> Answer:
    """Whether a ratio is above one, said only if both ends of its range are on the same side."""
    return Answer.YES if low > 1 else Answer.NO if high < 1 else Answer.UNDECIDED


def everywhere(reached: Iterable[bool]) -> Answer:
    """Whether something holds in all cases, in some or in none."""
    found = list(reached)
    if not found:
        return Answer.NOT_TESTED
    return Answer.YES if all(found) else Answer.IN_PART if any(found) else Answer.NO
