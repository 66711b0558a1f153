"""Pictures of one study of ``layerpipe2 tune``, drawn by Optuna in this project's style."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from layerpipe2.tuning.results import best_trials
from layerpipe2.tuning.settings import OBJECTIVES, quiet
from layerpipe2.tuning.study import Study
from paper_figures import style

_MOST_AXES = 8
"""Parameters that a picture shows."""


def catalogue(study: Study) -> dict[str, Callable[[], Figure]]:
    """File stem -> function that draws it: of several objectives the first one's, and their Pareto front."""
    found: dict[str, Callable[[], Figure]] = {"history": partial(_by_optuna, study, "plot_optimization_history")}
    found["slice"] = partial(_by_optuna, study, "plot_slice")
    if len(study.settings.space) > 1:
        found["parallel"] = partial(_by_optuna, study, "plot_parallel_coordinate")
        found["importance"] = partial(_by_optuna, study, "plot_param_importances")
    if len(study.settings.objectives) > 1:
        found["front"] = partial(front, study)
    return found


def _by_optuna(study: Study, name: str) -> Figure:
    """One of ``optuna.visualization.matplotlib``; the importance is fANOVA's."""
    import optuna.visualization.matplotlib as drawing

    objective = study.settings.objectives[0]
    told: dict[str, Any] = {"target_name": objective}
    if len(study.settings.objectives) > 1:
        told["target"] = lambda trial: trial.values[0]
    with mpl.rc_context(), style.context(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own style, and parts of it that may change
        axes = getattr(drawing, name)(study.optuna_study, **told)
        first = axes.flat[0] if hasattr(axes, "flat") else axes
        figure: Figure = first.figure
        figure.set_size_inches(style.DOUBLE, 2.8)
        for axis in figure.axes:
            axis.set_title("")
            axis.set_facecolor("white")
            legend = axis.get_legend()
            if legend is not None:
                legend.set_frame_on(False)
        figure.suptitle(f"{study.name}: {OBJECTIVES[objective].text}, {len(study.trials())} trials", fontsize=8)
        figure.set_layout_engine("tight")
        return figure


def front(study: Study) -> Figure:
    """The first objective against each of the others: all completed trials, and those of the Pareto front."""
    names = study.settings.objectives
    best = {trial.number for trial in best_trials(study)}
    done = [trial for trial in study.trials() if trial.values]
    with style.context():
        figure, axes = style.canvas(2.6, columns=len(names) - 1, sharey=True)
        for column, name in enumerate(names[1:], 1):
            axis = axes.flat[column - 1]
            for chosen, look in ((False, {"color": "#aaaaaa", "s": 10}), (True, {"color": "#cc3311", "s": 22})):
                mine = [trial.values for trial in done if (trial.number in best) == chosen]
                axis.scatter([v[column] for v in mine], [v[0] for v in mine], linewidths=0, **look)
            axis.set_xlabel(OBJECTIVES[name].text.replace(", ", ",\n"))
        axes.flat[0].set_ylabel(OBJECTIVES[names[0]].text.replace(", ", ",\n"))
        style.note(figure, f"{study.name}: {len(done)} trials (grey), {len(best)} on the Pareto front (red).")
        return figure
