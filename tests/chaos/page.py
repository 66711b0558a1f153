"""What a run of the attacks has counted, for docs/reliability.md, which says what the attacks are."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from layerpipe2.versions import versions
from tests.chaos.attack import Attack
from tests.chaos.kept import Kept
from tests.chaos.runner import table

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- counts:begin -->\n", "<!-- counts:end -->\n"


def with_counts(text: str, attacks: Sequence[Attack], kept: Kept) -> str:
    """The page's text with other counts in it."""
    before, after = text.split(_BEGIN)[0], text.split(_END)[1]
    return f"{before}{_BEGIN}{counts(attacks, kept)}{_END}{after}"


def counts(attacks: Sequence[Attack], kept: Kept) -> str:
    """How many cases there were of each attack, how they ended, and how to repeat those that failed."""
    results = {attack.name: kept.results[attack.name] for attack in attacks if attack.name in kept.results}
    failures = [failure for result in results.values() for failure in result.failures]
    cases = sum(result.cases for result in results.values())
    said = versions()
    machine = f"{_processor()}, {os.cpu_count()} cores, Python {said['python']}, torch {said['torch']}"
    head, *rows = table(results)
    lines = [
        f"**{cases:,} cases, of which {len(failures):,} failed.** Commits {', '.join(kept.commits)}; last on "
        f"{datetime.now(UTC):%Y-%m-%d}; seed {kept.seed}; {machine}.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        *([""] if failures else []),
        *(f"- FAILED: {one['kind']}, {_last_line(one['why'])}: `{one['repeat']}`" for one in failures),
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _last_line(why: str) -> str:
    return why.strip().rpartition("\n")[2][:200]
