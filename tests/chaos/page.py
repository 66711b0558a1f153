"""docs/reliability.md: what a run of the attacks has counted, and what the attacks are."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from layerpipe2.versions import versions
from tests.chaos.attack import ALLOWED, FORBIDDEN, Attack
from tests.chaos.kept import Kept
from tests.chaos.runner import table

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_NOT_TRIED = (
    "a machine that loses its power: files are synced before they get their names, but nothing was unplugged",
    "a full disk, a network file system, a clock that jumps",
    "GPUs, several machines, more than two processes of a pipeline",
    "checkpoints that were changed on purpose and given a new checksum, but for bombs; records so changed were tried",
    "memory that flips bits while a training runs",
)


def page(attacks: Sequence[Attack], kept: Kept) -> str:
    """The page's text."""
    results = {attack.name: kept.results[attack.name] for attack in attacks if attack.name in kept.results}
    failures = [failure for result in results.values() for failure in result.failures]
    cases = sum(result.cases for result in results.values())
    said = versions()
    machine = f"{_processor()}, {os.cpu_count()} cores, Python {said['python']}, torch {said['torch']}"
    head, *rows = table(results)
    lines = [
        "# What was tried to break it",
        "",
        "`make chaos` attacks this project for up to three minutes, also in CI; `make chaos-long` for hours, and",
        "writes this page; stopped, it goes on where it was (results/chaos.json). Both fail if any case ends in one of",
        "the ways that are forbidden.",
        "",
        f"**{cases:,} cases, of which {len(failures):,} failed.** Commits {', '.join(kept.commits)}; last on "
        f"{datetime.now(UTC):%Y-%m-%d}; seed {kept.seed}; {machine}.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "Case *i* of an attack has the seed given above plus *i*; `python -m tests.chaos --only ATTACK --seed SEED",
        "--cases 1` repeats one. The moment of a kill depends on the machine as well.",
        "",
        *(f"- FAILED: {one['kind']}, {_last_line(one['why'])}: `{one['repeat']}`" for one in failures),
        "",
        "## The columns",
        "",
        *(f"- **{kind}**: {text}." for kind, text in ALLOWED.items()),
        *(f"- **{kind}** (forbidden): {text}." for kind, text in FORBIDDEN.items()),
        "",
        "A case runs in a process of its own; from outside one looks at what it says, its time, its memory, its files",
        "and what it leaves running. Input is judged by one process that has imported everything already.",
        "",
        "## The attacks",
        "",
        *(f"- **{attack.name}**: {attack.what}. *Rule:* {attack.rule}." for attack in attacks),
        "",
        "## Not tried",
        "",
        *(f"- {text}." for text in _NOT_TRIED),
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _last_line(why: str) -> str:
    return why.strip().rpartition("\n")[2][:200]
