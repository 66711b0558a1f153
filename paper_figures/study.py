"""Pictures of one study of ``layerpipe2 tune``; the importance of a setting is Optuna's (fANOVA)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from layerpipe2.lab.judging.objectives import OBJECTIVES
from layerpipe2.lab.tuning.results import best_trials, values_of
from layerpipe2.lab.tuning.settings import quiet
from layerpipe2.lab.tuning.space import Range
from layerpipe2.lab.tuning.study import Study
from paper_figures import style

_GREY, _RED, _COLOURS = "#aaaaaa", "#cc3311", "viridis"


_FEWEST = 8  # trials for an importance that says something


def catalogue(study: Study) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws it: of several objectives the first one's, and their Pareto front."""
    found: dict[str, Callable[[], Figure]] = {"history": partial(history, study), "slice": partial(slices, study)}
    if len(study.settings.space) > 1:
        found["parallel"] = partial(parallel, study)
    if why_no_importance(study) is None:
        found["importance"] = partial(importance, study)
    if len(study.settings.objectives) > 1:
        found["front"] = partial(front, study)
    return found


def why_no_importance(study: Study) -> str | None:
    """Why nothing can be said about the importance of settings; None if it can."""
    done = _done(study)
    always = [name for name in study.settings.space if all(name in trial.params for trial in done)]
    if len(always) < 2:
        return f"{len(always)} setting is tuned in every trial, and shares of the variance take two"
    if len(done) < _FEWEST:
        return f"{len(done)} trials have completed, and it takes {_FEWEST}"
    if len({trial.values[0] for trial in done}) == 1:
        return f"all completed trials have the same {study.settings.objectives[0]}"
    return None


@style.drawn
def history(study: Study) -> Figure:
    """The first objective of every completed trial, and the best so far."""
    done = _done(study)
    values, best = [trial.values[0] for trial in done], list[float]()
    better = max if OBJECTIVES[study.settings.objectives[0]].direction == "maximize" else min
    for value in values:
        best.append(better([*best[-1:], value]))
    figure, axes = style.canvas(2.4)
    axis = axes.flat[0]
    axis.scatter([trial.number for trial in done], values, s=12, color=_GREY, linewidths=0, label="trial")
    axis.step([t.number for t in done], best, where="post", color=_RED, label="best so far")
    axis.set(xlabel="trial", ylabel=_label(study))
    axis.legend(loc="best")
    style.integer_ticks(axis)
    style.note(figure, _told(study))
    return figure


@style.drawn
def slices(study: Study) -> Figure:
    """The first objective against each setting; darker dots are later trials."""
    ranges, done = study.settings.ranges.ranges, _done(study)
    figure, axes = style.canvas(2.4, columns=len(ranges), sharey=True)
    for axis, one in zip(axes.flat, ranges, strict=True):
        mine = [trial for trial in done if one.name in trial.params]
        xs = [_place(one, trial) if one.choices else trial.params[one.name] for trial in mine]
        order = [trial.number for trial in mine]
        axis.scatter(xs, [trial.values[0] for trial in mine], c=order, cmap="Blues", vmin=-10, s=14, linewidths=0)
        axis.set_xlabel(one.name)
        _scale(axis, one)
    axes.flat[0].set_ylabel(_label(study))
    style.note(figure, f"{_told(study)} Later trials are darker.")
    return figure


@style.drawn
def parallel(study: Study) -> Figure:
    """A line per completed trial through its settings, in the colour of the first objective; the best lie on top."""
    ranges, done = study.settings.ranges.ranges, _done(study)
    values = [trial.values[0] for trial in done]
    scale = Normalize(min(values), max(values))
    worst_first = OBJECTIVES[study.settings.objectives[0]].direction == "maximize"
    figure, axes = style.canvas(2.8)
    axis, shown = axes.flat[0], ScalarMappable(scale, _COLOURS if worst_first else f"{_COLOURS}_r")
    for trial in sorted(done, key=lambda trial: trial.values[0], reverse=not worst_first):
        points = [(x, _share(one, trial)) for x, one in enumerate(ranges) if one.name in trial.params]
        axis.plot(*zip(*points, strict=True), color=shown.to_rgba(trial.values[0]), linewidth=0.9)
    for x, one in enumerate(ranges):
        for y, text in _ends(one):
            axis.annotate(text, (x, y), (3, 0), textcoords="offset points", fontsize=7, va="center")
    axis.set_xticks(range(len(ranges)), [one.name for one in ranges])
    axis.set(yticks=[], xlim=(-0.1, len(ranges) - 0.6))
    axis.grid(visible=True, axis="x", color="#888888")
    axis.spines[["left", "bottom"]].set_visible(False)
    figure.colorbar(shown, ax=axis).set_label(_label(study))
    style.note(figure, f"{_told(study)} Each setting runs from its lowest to its highest value.")
    return figure


@style.drawn
def importance(study: Study) -> Figure:
    """Share of the first objective's variance over the space that each setting explains."""
    first = (lambda trial: float(trial.values[0])) if len(study.settings.objectives) > 1 else None
    with quiet():
        found = get_param_importances(study.optuna_study, evaluator=FanovaImportanceEvaluator(seed=0), target=first)
    figure, axes = style.canvas(0.9 + 0.25 * len(found))
    axis = axes.flat[0]
    axis.barh(list(found)[::-1], [100 * share for share in list(found.values())[::-1]], color="#0072b2")
    axis.set_xlabel(f"share of the variance of {study.settings.objectives[0]} (%, fANOVA)")
    style.note(figure, _told(study))
    return figure


@style.drawn
def front(study: Study) -> Figure:
    """The first objective against each of the others: all completed trials, and those of the Pareto front."""
    names, done = study.settings.objectives, _done(study)
    best = {trial.number for trial in best_trials(study)}
    figure, axes = style.canvas(2.6, columns=len(names) - 1, sharey=True)
    for column, name in enumerate(names[1:], 1):
        axis = axes.flat[column - 1]
        for chosen, look in ((False, {"color": _GREY, "s": 10}), (True, {"color": _RED, "s": 22})):
            mine = [trial.values for trial in done if (trial.number in best) == chosen]
            axis.scatter([v[column] for v in mine], [v[0] for v in mine], linewidths=0, **look)
        axis.set_xlabel(OBJECTIVES[name].text.replace(", ", ",\n"))
    axes.flat[0].set_ylabel(_label(study))
    style.note(figure, f"{_told(study)} Red: the {len(best)} trials of the Pareto front.")
    return figure


def _done(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials() if values_of(trial) is not None]


def _label(study: Study) -> str:
    name = study.settings.objectives[0]
    return {"accuracy": "validation accuracy (share)", "loss": "validation loss (nats)"}.get(name, name)


def _told(study: Study) -> str:
    return f"{study.name}: n={len(_done(study))} completed of {len(study.trials())} trials."


def _place(one: Range, trial: FrozenTrial) -> int:
    return one.choices.index(trial.params[one.name])


def _share(one: Range, trial: FrozenTrial) -> float:
    """Where the value lies in its range, from 0 to 1."""
    place = one.place(trial.params[one.name])
    return place if place is not None else _place(one, trial) / max(1, len(one.choices) - 1)


def _ends(one: Range) -> Sequence[tuple[float, str]]:
    if one.choices:
        return [(i / max(1, len(one.choices) - 1), str(choice)) for i, choice in enumerate(one.choices)]
    return [(0.0, f"{one.low:g}"), (1.0, f"{one.high:g}")]


def _scale(axis: Any, one: Range) -> None:
    if one.choices:
        axis.set_xticks(range(len(one.choices)), [str(choice) for choice in one.choices], rotation=30)
    elif one.logarithmic:
        style.log_ticks(axis, (1.0,), "x")
