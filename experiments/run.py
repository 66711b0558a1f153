"""Train the runs of an experiment that have no record yet, one record per run: ``python -m experiments.run cpu``.

Says first how long that will take on this machine, from a few steps, and asks. Stop it whenever you like and start it
again: finished runs stay, whatever ended it. Several machines may share the folder, or a database (--storage). A record
that was made with other settings is refused; every record says which commit made it.
"""

import sys
import time
from collections.abc import Sequence

from experiments.arguments import check, run_parser
from experiments.lifetime import end_with_dvc
from experiments.processes import training_server

if __name__ == "__main__":
    end_with_dvc()
    check(run_parser(__doc__))
    training_server()  # what it imports takes as long as the imports below: both go on at once

import torch

from experiments.accuracy import guess
from experiments.accuracy.grid import Grid, Task
from experiments.accuracy.schema import read_experiment
from experiments.accuracy.work import Queue
from layerpipe2.cli.console import in_words, run_command
from layerpipe2.errors import UserError
from layerpipe2.lab.runs import cell_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, look at what is left, ask, run.

    Raises:
        UserError: on a mistake in the file, records of other settings, or if the start isn't confirmed.
    """
    options = run_parser(__doc__).parse_args(arguments)
    experiment = read_experiment(options.experiment)
    grid = Grid.of(experiment, options.out)
    tasks = grid.choose(options.network, options.group)
    jobs = options.jobs or experiment.jobs
    outdated = set(grid.outdated(tasks)) if options.this_code else set()
    deadline = None if options.minutes is None else time.time() + 60 * options.minutes
    left = [task for task in tasks if grid.folder / task.path in outdated or grid.record(task) is None]
    if left and not options.quiet and not _agreed(left, len(tasks), jobs, options.yes):
        raise UserError("not confirmed; nothing was started")
    guess.measure(grid)
    if left or outdated:
        for path in outdated:
            cell_file.remove(path)
        missing = Queue(grid, tasks, deadline, options.quiet, options.storage).run(jobs, torch.cuda.device_count())
        if missing:
            print(f"{missing} of {len(tasks)} runs are left; start this again to go on")
            return
    print(f"all {len(tasks)} runs of {experiment.name} are finished: {grid.folder}")


def _agreed(left: list[Task], total: int, jobs: int, yes: bool) -> bool:
    """Say how long it will take, and ask."""
    from experiments.accuracy.estimate import estimate  # imports Lightning

    seconds, speeds = estimate(left, jobs=jobs)
    steps = ", ".join(f"{kind} {1e3 * speed.step:.3g} ms per update" for kind, speed in speeds.items())
    text = (
        f"{len(left)} of {total} runs are left: about {in_words(seconds)} on this machine "
        f"({jobs} side by side; {steps})"
    )
    if yes:
        print(text)
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{text}; there is no terminal to ask on: give --yes to start")
    return input(f"{text}\nStart? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(run_command("experiments.run", main, None))
