"""results/chaos.json: what ``make chaos-long`` has counted so far. Started again, it goes on behind that."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from layerpipe2.errors import UserError
from layerpipe2.lab.provenance import git_state
from layerpipe2.lab.runs.records import write_json
from tests.chaos.runner import Result

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
