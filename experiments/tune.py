"""Tune the strategies of an experiment that has a space: ``python -m experiments.tune digits``.

Every strategy gets a study of its own on each network, at the largest number of stages: the same space, the same
number of trials, the same pruner, seeds that no final run has, validation data alone: their loss if the report judges
losses, else their accuracy. Where the best value lies at an end of its range, the range is moved there and the study
done again, as often as the experiment allows. Of a grid with several seeds that point is chosen whose mean is best, of
those at which no run diverged; if it is an outermost one, the search doesn't cover the best rate, which is an error.
Where the trials are ``listed`` the budget decides, and the table says which choices are at an end.
Trials of one study follow each other, so that the choice doesn't depend on how many processes there are; studies go
side by side.

Writes ``tuned.json``, what was chosen, and ``tuning.csv``, a row per trial, beside the records of the final runs. A
study that was stopped goes on; one of other settings or other code is begun anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.arguments import check, tune_parser
from experiments.lifetime import end_with_dvc
from experiments.processes import follow, training_server, workers

if __name__ == "__main__":
    end_with_dvc()
    check(tune_parser(__doc__))
    training_server()  # what it imports takes as long as the imports below: both go on at once

from experiments.accuracy.grid import FRONT, TUNED, Cell, Grid
from experiments.accuracy.schema import Tuning, read_experiment
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.lab.judging.objectives import best, judged
from layerpipe2.lab.runs.records import Row, write_csv, write_json
from layerpipe2.lab.tuning.results import values_of
from layerpipe2.lab.tuning.settings import GRID, POINTWISE
from layerpipe2.lab.tuning.space import Space
from layerpipe2.lab.tuning.study import STATUS, OtherStudy, Study, open_existing, open_or_make, work
from layerpipe2.lab.tuning.tune import study_settings

_LOOK_S = 5.0  # how often the studies are looked at
_RANGE = "range-"
_CELL = ("network", "dataset", "optimizer", "stages", "strategy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, and write what was chosen.

    Raises:
        UserError: on a mistake in the file, or if the records can't be written.
    """
    options = tune_parser(__doc__).parse_args(arguments)
    experiment = read_experiment(options.experiment)
    grid = Grid.of(experiment, options.out)
    if experiment.tuning is None:
        print(f"{experiment.name} has no space to tune in; nothing is to be done")
        return
    rounds = tune(grid, experiment.tuning, options.jobs or experiment.jobs, options.quiet)
    print(f"{len(rounds)} strategies of {experiment.name} are tuned: {grid.folder / TUNED}")


def tune(grid: Grid, tuning: Tuning, jobs: int, quiet: bool) -> dict[Cell, list[Study]]:
    """Do all studies, and write the choice and the table. Cell -> its studies, one for every range."""
    cells = list(dict.fromkeys(grid.tuned_with(cell) for cell in grid.cells))
    spaces = {
        cell: Space.of(tuning.space_of(cell.strategy), grid.study_config(cell, tuning.seeds[0])) for cell in cells
    }
    rounds: dict[Cell, list[Study]] = {cell: [] for cell in cells}
    for number in range(tuning.moves + 1):
        pairs = [(cell, seed) for seed in tuning.seeds for cell in spaces]
        studies = [(cell, _study(grid, tuning, cell, seed, number, spaces[cell])) for cell, seed in pairs]
        if not quiet:
            print(f"round {number + 1}: {len(studies)} studies of {tuning.trials} trials", file=sys.stderr, flush=True)
        _do(grid.experiment.name, [study for _, study in studies], jobs)
        for cell, study in studies:
            rounds[cell].append(study)
        spaces = {cell: moved for cell, space in spaces.items() if (moved := _moved(rounds[cell], space)) != space}
        if not spaces:
            break
    for cell, done in rounds.items():
        for folder in (grid.folder / "tune" / grid.name(cell)).glob(f"{_RANGE}*"):
            if folder not in [study.folder for study in done]:  # of an earlier space
                shutil.rmtree(folder)
    _write(grid, tuning, rounds)
    for cell in spaces:
        print(f"{grid.name(cell)}: the best value lies at an end of its last range; give a wider one", file=sys.stderr)
    return rounds


def _study(grid: Grid, tuning: Tuning, cell: Cell, seed: int, number: int, space: Space) -> Study:
    """The study of a cell with a seed in this round; begun anew if one of other settings or code is in its place."""
    folder = grid.folder / "tune" / grid.name(cell) / (f"{_RANGE}{number}" + f"-s{seed}" * (len(tuning.seeds) > 1))
    settings = study_settings(
        grid.study_config(cell, seed),
        space.texts,
        trials=tuning.trials or 1,
        sampler=tuning.sampler,
        pruner=tuning.pruner,
        seed=seed,
        objectives=(judged(dict(grid.experiment.report)),),
        in_order=True,
    )
    try:
        study = open_or_make(settings, folder)
        if study.settings.trials == settings.trials:
            return study
    except OtherStudy:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return open_or_make(settings, folder)


def _do(name: str, studies: list[Study], jobs: int) -> None:
    with workers(jobs) as pool:
        calls = [(_work, [study.folder for study in studies])] * jobs
        total = sum(study.settings.trials for study in studies)
        follow(pool, calls, name, "trial", total, lambda: sum(map(_finished, studies)), look_s=_LOOK_S, lines=True)


def _finished(study: Study) -> int:
    return sum(trial.state.is_finished() for trial in study.trials())


def _work(folders: list[Path]) -> None:
    """Do trials of the studies in these folders; a worker calls it."""
    work([open_existing(folder) for folder in folders])


def _moved(studies: list[Study], space: Space) -> Space:
    """The space for the next round: the same if the best of all rounds lies within the newest range."""
    best = _best(studies)
    return space.moved(best[1]) if best is not None and best[0] is studies[-1] else space


def _best(studies: list[Study]) -> tuple[Study, dict[str, Any]] | None:
    """The study with the best trial, and that trial's choice; None if no trial has completed."""
    found = [(study, trial) for study in studies for trial in study.trials()]
    chosen = best(found, studies[0].settings.objectives, lambda pair: values_of(pair[1]))
    return (chosen[0][0], chosen[0][1].params) if chosen else None


def _best_point(studies: list[Study]) -> tuple[dict[str, Any], float] | None:
    """Return the point of a grid with the best mean, of those at which all seeds' runs have completed; None of none."""
    values: dict[tuple[Any, ...], list[list[float] | None]] = {}
    for study in studies:
        for trial in study.trials():
            values.setdefault(tuple(trial.params.items()), []).append(values_of(trial))
    whole = {point: [one[0] for one in found if one] for point, found in values.items() if None not in found}
    means = [(dict(point), fmean(found)) for point, found in whole.items()]
    chosen = best(means, studies[0].settings.objectives, lambda pair: [pair[1]])
    return chosen[0] if chosen else None


def _choice(cell: str, tuning: Tuning, studies: list[Study]) -> dict[str, Any] | None:
    """The settings that the studies of a cell have found best.

    Raises:
        UserError: if they are at the edge of a grid, so that better ones may lie beyond it.
    """
    if tuning.sampler not in POINTWISE:
        found = _best(studies)
        return found[1] if found else None
    point, _ = _best_point(studies) or (None, None)
    edges = studies[0].settings.ranges.outermost(point) if point and tuning.sampler == GRID else []
    if edges:
        assert point is not None
        raise UserError(
            f"{cell}: the best {edges[0]} is {point[edges[0]]:g}, at an end of the grid, so that a better one may lie "
            f"beyond it; give tuning.space.{edges[0]} more choices on that side"
        )
    return point


def _lasted_longest(studies: list[Study]) -> dict[str, Any] | None:
    """The choice of the diverged trial with the most epochs, of equals the first: divergence is a result as well."""
    trials = [trial for study in studies for trial in study.trials() if trial.user_attrs.get(STATUS) == "diverged"]
    longest = max(trials, key=lambda trial: len(trial.intermediate_values), default=None)
    return None if longest is None else longest.params


def _write(grid: Grid, tuning: Tuning, rounds: dict[Cell, list[Study]]) -> None:
    chosen: dict[str, dict[str, Any]] = {}
    for cell, studies in rounds.items():
        best = _choice(grid.name(cell), tuning, studies)
        settings = best or _lasted_longest(studies)
        if settings is None:
            what = f"no trial of {grid.name(cell)} could be trained"
            raise UserError(f"{what}; give {grid.experiment.name}.yaml another space or more trials")
        if best is None:
            print(f"{grid.name(cell)}: every trial diverged; the one that lasted longest is chosen", file=sys.stderr)
        chosen.setdefault(cell.network, {})[grid.name(cell)] = settings
    tuned = {name for studies in rounds.values() for study in studies for name in study.settings.space}
    names = sorted(tuned - set(_CELL))  # the name of a strategy has the number of its trial
    value = f"val_{judged(dict(grid.experiment.report))}"
    rows = [row for cell, studies in rounds.items() for row in _rows(cell, len(tuning.seeds), studies, value)]
    columns = [*_CELL, "round", "seed", "trial", "status", "epochs", value, "edge", *names]
    write_csv(grid.folder / "tuning.csv", columns, rows)
    write_json(grid.folder / TUNED, chosen)
    if grid.experiment.front is not None:
        write_json(grid.folder / FRONT, {"front": _front(grid, rounds, grid.experiment.front)})


def _front(grid: Grid, rounds: dict[Cell, list[Study]], most: int) -> list[str]:
    """The mitigations with the best means over all networks; one that trains nowhere in one of them is not in it."""
    values: dict[str, list[list[float] | None]] = {name: [] for name in grid.rows}
    for cell, studies in rounds.items():
        if cell.strategy in values:
            found = _best_point(studies)
            values[cell.strategy].append([found[1]] if found else None)
    means = [(name, fmean(v[0] for v in found if v)) for name, found in values.items() if None not in found]
    sign = 1 if judged(dict(grid.experiment.report)) == "loss" else -1
    return [name for name, _ in sorted(means, key=lambda pair: sign * pair[1])[:most]]


def _rows(cell: Cell, seeds: int, studies: list[Study], value: str) -> list[Row]:
    key = {name: getattr(cell, name) for name in _CELL}
    return [
        key
        | {
            "round": number // seeds,
            "seed": study.settings.config.seed,
            "trial": number % seeds * len(study.trials()) + trial.number,
            "status": trial.user_attrs.get(STATUS, "failed"),
        }
        | {"epochs": len(trial.intermediate_values), value: _last(trial.intermediate_values)}
        | {"edge": bool(study.settings.ranges.at_an_end(trial.params))}
        | trial.params
        for number, study in enumerate(studies)
        for trial in study.trials()
    ]


def _last(values: dict[int, float]) -> float | None:
    return values[max(values)] if values else None


if __name__ == "__main__":
    sys.exit(run_command("experiments.tune", main, None))
