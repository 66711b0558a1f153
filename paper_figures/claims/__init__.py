"""Verdicts, each computed from the records: on the claims of the abstract, of tuned experiments, of real pipelines."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from layerpipe2.runs.yaml_file import read_yaml
from paper_figures.verdicts import Answer, Verdict


def claim_verdict(
    key: str, answer: Answer, evidence: Iterable[str], *, n: int = 0, caveat: str = "", **test: float
) -> Verdict:
    """The verdict on a claim of ``claims.yaml``; ``test`` has what its description of the test asks for."""
    claim = _claims()[key]
    described = claim["test"].format(**test)
    return Verdict(claim["statement"], answer, n=n, key=key, test=described, evidence=tuple(evidence), caveat=caveat)


@cache
def _claims() -> dict[str, dict[str, str]]:
    return read_yaml(Path(__file__).with_name("claims.yaml"))
