"""Run a profile of experiments/full_scale/params.yaml: tune, train, write one record per run.

Says first how long it will take on this machine, from a few steps, and asks. Stop it whenever you like and start it
again: finished runs stay, whatever ended it. Several machines may share the folder.

This is no DVC stage: DVC removes a stage's outputs before it repeats the stage, takes one lock for the whole repository
and knows nothing smaller than a stage, while here the unit is one of hundreds of runs. What DVC would see to is done
per run: a record that was made with other settings is refused, and a record says which commit made it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.campaign.estimate import Speed, estimate, in_words
from experiments.campaign.params import Profile
from experiments.campaign.tasks import Campaign, Task
from experiments.campaign.work import run_campaign
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.runs.config import Rule, check

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, look at what is left, ask, run.

    Raises:
        UserError: on a mistake in the parameters, records of other settings, or if the start isn't confirmed.
    """
    options = _parser().parse_args(arguments)
    check("--jobs", options.jobs, Rule("", "", "int", low=1, optional=True))
    check("--minutes", options.minutes, Rule("", "", "float", low=0, optional=True))
    profile = Profile.from_file(options.params, options.profile)
    campaign = Campaign(profile, options.out or Path("results/full_scale") / options.profile)
    jobs = options.jobs or profile.jobs
    tasks = campaign.tasks()
    left = [task for task in tasks if campaign.record(task) is None]
    if left:
        if not _agreed(campaign, left, len(tasks), jobs, options.yes):
            raise UserError("not confirmed; nothing was started")
        deadline = None if options.minutes is None else time.time() + 60 * options.minutes
        missing = run_campaign(campaign, jobs=jobs, gpus=torch.cuda.device_count(), deadline=deadline)
        if missing:
            print(f"{missing} of {len(tasks)} runs are left; start this again to go on")
            return
    print(f"all {len(tasks)} runs of {options.profile} are finished: {campaign.folder}")


def _agreed(campaign: Campaign, left: list[Task], total: int, jobs: int, yes: bool) -> bool:
    """Say how long it will take, and ask."""
    seconds, speeds = estimate(campaign, left, jobs=jobs)
    text = (
        f"{len(left)} of {total} runs are left: about {in_words(seconds)} on this machine "
        f"({jobs} side by side; {_speeds(speeds)})"
    )
    if yes:
        print(text)
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{text}; there is no terminal to ask on: give --yes to start")
    return input(f"{text}\nStart? [y/N] ").strip().lower() in ("y", "yes")


def _speeds(speeds: dict[str, Speed]) -> str:
    return ", ".join(f"{kind} {1e3 * speed.step:.3g} ms per update" for kind, speed in speeds.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h100", help="a profile of the parameters; default: %(default)s")
    parser.add_argument("--params", type=Path, default=HERE / "params.yaml", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder of the records; default: results/full_scale/<profile>")
    parser.add_argument("--yes", action="store_true", help="start without asking")
    parser.add_argument("--jobs", type=int, help="processes side by side; default: the profile's")
    parser.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("experiments/full_scale/run.py", main, None))
