"""What the cases of attacks have come to: kept in results/chaos.json, and shown in docs/reliability.md."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from layerpipe2.errors import UserError
from layerpipe2.lab.provenance import git_state
from layerpipe2.lab.runs.records import write_json
from layerpipe2.versions import versions
from tests.chaos.attack import Attack
from tests.chaos.runner import Result, table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "results" / "chaos.json"


@dataclass
class Kept:
    """Results by the attack's name, the seed of each one's first case, and the commits that were attacked."""

    seed: int
    results: dict[str, Result] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, seed: int) -> "Kept":
        """What is kept at ``path``, or nothing yet.

        Raises:
            UserError: if it began with another seed.
        """
        if not path.exists():
            return cls(seed)
        found = json.loads(path.read_text())
        if found["seed"] != seed:
            raise UserError(f"{path} began with seed {found['seed']}, not {seed}; go on with that, or move it away")
        results = {
            name: Result(Counter(one["counts"]), one["seconds"], one["failures"])
            for name, one in found["results"].items()
        }
        return cls(seed, results, found["commits"])

    def add_commit(self) -> None:
        """The code that is attacked from here on."""
        commit, dirty = git_state(ROOT)
        name = f"{(commit or 'unknown')[:12]}{' with changes' if dirty else ''}"
        if name not in self.commits:
            self.commits.append(name)

    def write(self, path: Path) -> None:
        """Keep it."""
        results = {name: vars(result) | {"counts": dict(result.counts)} for name, result in self.results.items()}
        write_json(path, {"seed": self.seed, "commits": self.commits, "results": results})


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
