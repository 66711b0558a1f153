"""Verdicts, each computed from the records: on the claims of the abstract, of tuned experiments, of real pipelines."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from layerpipe2.lab.runs.yaml_file import read_yaml
from paper_figures.verdicts import Answer, Verdict


def claim_verdict(
    key: str,
    answer: Answer,
    evidence: Iterable[str],
    *,
    n: int = 0,
    caveat: str = "",
    details: str = "",
    parts: Iterable[str] = ("test",),
    **test: float | str,
) -> Verdict:
    """The verdict on a claim of ``claims.yaml``; ``test`` has what the ``parts`` of its description there ask for."""
    claim = _claims()[key]
    described = " ".join(claim[part] for part in parts).format(**test)
    more: dict[str, Any] = {"n": n, "caveat": caveat, "details": details}
    return Verdict(claim["statement"], answer, key=key, test=described, evidence=tuple(evidence), **more)


@cache
def _claims() -> dict[str, dict[str, str]]:
    return read_yaml(Path(__file__).with_name("claims.yaml"))
