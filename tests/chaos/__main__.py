"""Attack this project: ``python -m tests.chaos`` for three minutes, ``--long`` for hours.

Prints a table of what came of the cases, and for each one that failed how to repeat it. Ends with 1 if any has.
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

# As a launcher's ranks have it; torch reads it when it is imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch

from layerpipe2.cli import main as layerpipe2
from layerpipe2.delays import aligned
from tests.chaos.attack import Attack, call
from tests.chaos.attacks import ATTACKS
from tests.chaos.results import KEPT, PAGE, Kept, with_counts
from tests.chaos.runner import run, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen cases; 1 if one has failed, or an attack was not tried."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    call(layerpipe2, ["train", "--quiet", "--epochs", "1", "--max-steps", "1"])  # imports what forked children need
    gc.freeze()  # so that their collections don't copy its pages
    attacks = [attack for attack in ATTACKS if not options.only or attack.name in options.only]
    numbers = {a.name: options.cases or (a.long if options.long else a.short) for a in attacks}
    attacks = [attack for attack in attacks if numbers[attack.name] and _possible(attack)]
    kept = Kept.read(KEPT, options.seed) if options.write else Kept(options.seed)
    kept.add_commit()
    keep = partial(kept.write, KEPT) if options.write else lambda: None
    results = run(attacks, numbers, options.seed, options.minutes, options.jobs, results=kept.results, keep=keep)
    print("\n".join(aligned(table(results), left=1)))
    if options.write:
        PAGE.write_text(with_counts(PAGE.read_text(), ATTACKS, kept))
    failed = sum(len(result.failures) for result in results.values())
    print(f"{sum(result.cases for result in results.values())} cases, {failed} failed")
    if untried := [name for name, result in results.items() if not result.cases]:
        print(f"there was no time for {', '.join(untried)}")
    return 1 if failed or untried else 0


def _possible(attack: Attack) -> bool:
    possible = not attack.needs or find_spec(attack.needs) is not None
    if not possible:
        print(f"{attack.name} is left out: {attack.needs} isn't installed")
    return possible


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [attack.name for attack in ATTACKS]
    parser.add_argument("--long", action="store_true", help="as many cases as docs/reliability.md reports")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"these attacks only: {names}")
    parser.add_argument("--seed", type=int, default=0, help="of the first case of every attack; default: 0")
    parser.add_argument("--cases", type=int, help="of every attack")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after so many minutes")
    parser.add_argument("--jobs", type=int, default=2, help="cases side by side; default: 2")
    parser.add_argument(
        "--write", action="store_true", help="go on with results/chaos.json and write docs/reliability.md"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
