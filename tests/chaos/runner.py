"""Run the cases of attacks, two at a time, and count what came of them."""

import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.attack import ALLOWED, FORBIDDEN, Attack
from tests.chaos.cases import Case, start
from tests.chaos.processes import ended, fork

_BETWEEN_LINES_S = 30


@dataclass
class Result:
    """What came of an attack's cases."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.counts.total()


def run(
    attacks: Sequence[Attack],
    numbers: dict[str, int],
    seed: int,
    minutes: float = float("inf"),
    jobs: int = 2,
    *,
    results: dict[str, Result] | None = None,
    keep: Callable[[], object] = lambda: None,
) -> dict[str, Result]:
    """Run ``numbers[name]`` cases of every attack, mixed: a part of the time is a part of each.

    Case i of an attack has the seed ``seed + i``. No case begins after so many ``minutes``. What ``results`` has is not
    done again; new cases are added to it, and ``keep`` is called now and then and at the end.
    """
    results = {} if results is None else results
    for attack in attacks:
        results.setdefault(attack.name, Result())
    todo = {attack.name: range(results[attack.name].cases, numbers[attack.name]) for attack in attacks}
    order = [(a.alone, i / numbers[a.name], seed + i, a) for a in attacks for i in todo[a.name]]
    waiting = deque((a, s) for *_, s, a in sorted(order, key=lambda row: row[:3]))
    total, started = sum(numbers[attack.name] for attack in attacks), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="layerpipe2-chaos-") as folder:
        root = Path(folder)
        for attack in dict.fromkeys(attack for attack, _ in waiting):
            _prepare(attack, root / attack.name)
        running: list[Case] = []
        said, deadline = time.monotonic(), started + 60 * minutes
        while (waiting and time.monotonic() < deadline) or running:
            while waiting and time.monotonic() < deadline and _fits(waiting[0][0], running, jobs):
                attack, number = waiting.popleft()
                running.append(start(attack, number, root / attack.name, root))
            running = [case for case in running if not _ended(case, results)]
            time.sleep(0.002)
            if time.monotonic() - said > _BETWEEN_LINES_S:
                said = time.monotonic()
                keep()
                _say_progress(results, total, said - started, running)
    keep()
    return results


def _prepare(attack: Attack, folder: Path) -> None:
    folder.mkdir()
    if attack.prepare is not None:
        prepare, log = attack.prepare, folder / "said"
        if ended(fork(lambda: prepare(folder) and None, log)):
            sys.exit(f"chaos: {attack.name} can't be prepared:\n{log.read_text()}")


def _fits(attack: Attack, running: list[Case], jobs: int) -> bool:
    return not running or (len(running) < jobs and not attack.alone and not running[0].attack.alone)


def _ended(case: Case, results: dict[str, Result]) -> bool:
    found = case.end()
    if found is None:
        return False
    outcome, why = found
    result = results[case.attack.name]
    result.counts[outcome] += 1
    result.seconds += time.monotonic() - case.started
    if outcome in FORBIDDEN:
        again = f"python -m tests.chaos --only {case.attack.name} --seed {case.seed} --cases 1"
        result.failures.append({"kind": outcome, "repeat": again, "why": why})
        print(f"FAILED {case.attack.name}: {outcome}: {why.strip()[-1500:]}\n  repeat: {again}", flush=True)
    shutil.rmtree(case.base, ignore_errors=True)
    return True


def _say_progress(results: dict[str, Result], total: int, seconds: float, running: list[Case]) -> None:
    done = sum(result.cases for result in results.values())
    failed = sum(len(result.failures) for result in results.values())
    now = ", ".join(case.attack.name for case in running)
    print(f"{done} of {total} cases, {failed} failed, {seconds:.0f} s; now {now}", flush=True)


def table(results: dict[str, Result]) -> list[list[str]]:
    """Rows for readers: an attack per row, a column per word of ALLOWED and FORBIDDEN."""
    rows = [["attack", "cases", *ALLOWED, *FORBIDDEN, "s per case"]]
    for name, result in results.items():
        counts = [f"{result.counts[kind]:,}" for kind in (*ALLOWED, *FORBIDDEN)]
        rows.append([name, f"{result.cases:,}", *counts, f"{result.seconds / max(1, result.cases):.2g}"])
    return rows
