"""``layerpipe2 tune``: search for the best settings of a run; take part in such a search; look at one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerpipe2.cli.commands import add_module, add_stages
from layerpipe2.cli.console import in_words as duration
from layerpipe2.cli.console import print_json
from layerpipe2.cli.options import within
from layerpipe2.errors import UserError, did_you_mean, shown
from layerpipe2.lab.cli.options import check as check_run
from layerpipe2.lab.cli.options import read_run
from layerpipe2.lab.data import load
from layerpipe2.lab.tuning import MOST_JOBS, MOST_TRIALS, check_there

if TYPE_CHECKING:
    from layerpipe2.lab.tuning.results import Status
    from layerpipe2.lab.tuning.study import Study

_ACTIONS = ("run", "join", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command beside the settings of a run."""
    parser.add_argument("action", nargs="?", default="run", metavar="ACTION", help="run (default), join or status")
    add_module(parser)
    group = parser.add_argument_group("study")
    add_stages(group)
    add = group.add_argument
    add("--space", nargs="+", metavar="NAME=RANGE", help="settings to tune, or one YAML file with them")
    budget = "budget, over all processes; default: 20"
    add("--trials", type=within(int, 1, MOST_TRIALS), default=20, metavar="N", help=budget)
    aims = "accuracy, loss (of the validation part), copies (of weights), time (modelled); default: accuracy"
    add("--objective", nargs="+", default=["accuracy"], metavar="NAME", help=aims)
    add("--sampler", default="tpe", metavar="NAME", help="tpe, gp (Gaussian process) or random; default: tpe")
    add("--pruner", metavar="NAME", help="median, hyperband or none; default: median, of several objectives none")
    add("--study-seed", type=within(int, 0, 2**32 - 1), default=0, metavar="N", help="of the sampler; default: 0")
    add("--in-order", action="store_true", help="one trial after the other, so that the study can be repeated exactly")
    add("--jobs", type=within(int, 1, MOST_JOBS), default=1, metavar="N", help="processes on this machine; default: 1")
    add("--storage", metavar="URL", help="PostgreSQL database of a study on several machines; default: the folder")
    add("--study", default="study", metavar="NAME", help="its name in the database; default: study")
    add("--out", default="study", metavar="DIR", help="folder of the study and its records; default: study")
    add("--json", action="store_true", help="print the outcome, or the status, as JSON")
    add("--quiet", action="store_true", help="no progress display")
    parser.set_defaults(check=check)


def check(options: argparse.Namespace) -> None:
    """Refuse what is wrong about the settings, the space, or the place of a study, without importing torch.

    Raises:
        UserError: as :func:`run`.
    """
    if options.action not in _ACTIONS:
        raise UserError(f"'layerpipe2 tune' can't {shown(options.action)}; {did_you_mean(options.action, _ACTIONS)}")
    if options.action == "run":
        check_run(options)
        space = _space(options.space)
        from layerpipe2.lab.tuning.settings import StudySettings

        StudySettings(config=read_run(options), space=space, trials=options.trials, **_settings(options))
    elif options.storage is None:
        check_there(Path(options.out))


def run(options: argparse.Namespace) -> None:
    """Do what is asked for.

    Raises:
        UserError: on a mistake in settings or space, another study in its place, or a storage that can't be used.
    """
    from layerpipe2.engine.allocator import keep_freed_memory
    from layerpipe2.lab.runs.lifetime import end_with_starter

    end_with_starter()
    keep_freed_memory()
    {"run": _run, "join": _join, "status": _status}[options.action](options)


def _run(options: argparse.Namespace) -> None:
    config = read_run(options)
    if options.module is None:
        load(config.dataset, config.data_root)  # missing data are told
    from layerpipe2.lab.tuning.tune import tune  # takes seconds

    study = tune(
        config,
        _space(options.space),
        folder=Path(options.out),
        trials=options.trials,
        jobs=options.jobs,
        storage=options.storage,
        name=options.study,
        stages=options.stages,
        follow=None if options.quiet else Progress(),
        **_settings(options),
    )
    _show(study, options.json)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Of a study, beside those of a run, the space and the budget."""
    return {
        "module": options.module,
        "objectives": tuple(options.objective),
        "sampler": options.sampler,
        "pruner": options.pruner or ("none" if len(options.objective) > 1 else "median"),
        "seed": options.study_seed,
        "in_order": options.in_order,
    }


def _join(options: argparse.Namespace) -> None:
    from layerpipe2.lab.tuning.study import open_existing, work

    study = open_existing(Path(options.out), options.storage, options.study)
    work([study])
    study.fetch_records()
    if not options.quiet:
        _show(study, options.json)


def _status(options: argparse.Namespace) -> None:
    from layerpipe2.lab.tuning.study import open_existing

    _show(open_existing(Path(options.out), options.storage, options.study), options.json)


def _space(given: Sequence[str] | None) -> dict[str, str]:
    from layerpipe2.lab.runs.yaml_file import read_yaml

    if not given:
        raise UserError("nothing to tune; give settings and their ranges, as in --space lr=log:1e-4:1")
    if len(given) == 1 and Path(given[0]).suffix in (".yaml", ".yml"):
        return {str(name): str(text) for name, text in read_yaml(Path(given[0])).items()}
    pairs = [word.partition("=") for word in given]
    for name, equal, _ in pairs:
        if not equal:
            raise UserError(f"--space has {shown(name)}; write NAME=RANGE, as in lr=log:1e-4:1, or name one .yaml file")
    space = {name: text for name, _, text in pairs}
    if len(space) < len(pairs):
        raise UserError("--space has a setting twice; give each one range")
    return space


def _show(study: Study, as_json: bool) -> None:
    from layerpipe2.lab.tuning.results import status

    found = status(study)
    if as_json:
        print_json(found._asdict())
        return
    print(summary(found))
    if found.finished == found.total and study.settings.module is None:
        print(f"records: {study.folder / 'trials'}")


def summary(found: Status) -> str:
    """A status in a few lines."""
    from layerpipe2.lab.tuning.settings import in_words

    states = ", ".join(f"{number} {state}" for state, number in sorted(found.counts.items()))
    lines = [f"{found.name}: {found.finished} of {found.total} trials finished ({states})"]
    for trial in found.running:
        lines.append(f"  trial {trial['trial']} runs on {trial['worker']} for {trial['seconds']:.0f} s")
    if found.finished < found.total and found.seconds_left is not None:
        lines.append(f"time left, with as many processes as now: {duration(found.seconds_left)}")
    what = "best trial" if len(found.objectives) == 1 else f"Pareto front ({len(found.best)} trials)"
    lines += [f"{what}:"] if found.best else []
    for trial in found.best:
        settings = ", ".join(f"{name} {_number(value)}" for name, value in trial["settings"].items())
        lines.append(f"  {trial['trial']}: {in_words(trial['values'], found.objectives)}: {settings}")
    for name, end in found.at_an_end.items():
        lines.append(f"the best {name} lies at the {end} end of its range: move the range and tune again")
    if found.reason:
        lines.append(f"{found.counts.get('refused', 0)} trials were refused: {found.reason}")
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Progress:
    """A bar on a terminal; elsewhere a line for about every tenth of the trials."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=None, unit="trial", disable=not sys.stderr.isatty(), leave=False)
        self._said = -1

    def __call__(self, found: Status) -> None:
        """Show how far the study is."""
        from layerpipe2.lab.tuning.settings import in_words

        best = f"best {in_words(found.best[0]['values'], found.objectives)}" if found.best else "none completed yet"
        best = f"{len(found.best)} on the Pareto front" if len(found.objectives) > 1 else best
        self._bar.total, self._bar.n = found.total, found.finished
        self._bar.set_description_str(found.name, refresh=False)
        self._bar.set_postfix_str(best)
        tenth = 10 * found.finished // found.total
        if self._bar.disable and tenth != self._said and found.finished:
            left = "" if found.finished == found.total else f", time left: {duration(found.seconds_left or 0)}"
            print(f"{found.name}: {found.finished}/{found.total} trials, {best}{left}", file=sys.stderr, flush=True)
            self._said = tenth
        if found.finished == found.total:
            self._bar.close()
