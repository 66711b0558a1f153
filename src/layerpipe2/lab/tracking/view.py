"""Prepared pages of an experiment in MLflow: which columns, runs, order, groups and charts a link opens with.

MLflow keeps the state of such a page in a tag of the experiment, and a link names the tag. The form of that state is
that of MLflow's web pages (3.17: ``createExperimentPageUIState`` and ``createExperimentPageSearchFacetsState``); what
isn't given has their default.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from layerpipe2.lab.tracking.entry import CELLS, SEEDS, TRIALS
from layerpipe2.lab.tracking.metrics import BEST, TEST, WON_BACK

_COLUMNS = ("strategy", "stages", "network", "lr")
TAG = "mlflow.sharedViewState."
_PAGE = "{server}/#/experiments/{experiment}/runs?viewStateShareKey={key}&workflowType=machine_learning"
_SECTION = "Results"
_FOLDED = ("final", "best", "sd", "n", "cost", "epoch")
"""Sections of charts that MLflow makes of all metrics, by the first part of their names."""


class View(NamedTuple):
    """One page.

    Attributes:
        title: for readers.
        kind: of its runs.
        metrics: the columns after those of its parameters; the first is drawn.
        group: parameter by which runs are grouped.
    """

    title: str
    kind: str
    metrics: Sequence[str]
    group: str | None = None


VIEWS = {
    "cells": View(
        "cells, by accuracy: mean over the seeds, its spread, what is won back",
        CELLS,
        (TEST, "sd/test_accuracy", "n/seeds", WON_BACK, BEST, "cost/copies"),
    ),
    "seeds": View("every run, grouped under its cell", SEEDS, (TEST, BEST, "final/val_loss"), "cell"),
    "tuning": View(
        "trials of the learning rates, grouped under their study",
        TRIALS,
        ("final/val_accuracy", "final/val_loss"),
        "cell",
    ),
}
"""Key of the link -> page."""


def link(server: str, experiment: str, key: str) -> str:
    """The address of a prepared page; ``server`` is as in ``http://127.0.0.1:5000``, or empty for a link within it."""
    return _PAGE.format(server=server, experiment=experiment, key=key)


def set_views(
    client: Any, experiment: str, params: Collection[str], keys: Collection[str] = ("cells", "seeds")
) -> None:
    """Prepare the pages of an experiment whose runs have these parameters."""
    known = client.get_experiment(experiment).tags
    for key in keys:
        text = state(VIEWS[key], [name for name in _COLUMNS if name in params])
        if known.get(TAG + key) != text:
            client.set_experiment_tag(experiment, TAG + key, text)


def state(view: View, params: Sequence[str]) -> str:
    """The value of the experiment's tag, for a page whose first columns are ``params``."""
    columns = [f"params.`{name}`" for name in params] + [f"metrics.`{name}`" for name in view.metrics]
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": view.group}]}
    facets = {
        "searchFilter": f"tags.kind = '{view.kind}' AND tags.current = 'true'",
        # The page loads 100 runs: in the order of their groups, so that these are whole.
        "orderByKey": f"params.`{view.group}`" if view.group else f"metrics.`{view.metrics[0]}`",
        "orderByAsc": bool(view.group),
    }
    page = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {"run_name": 230},
        "groupBy": group if view.group else None,
        "runsHiddenMode": "FIRST_20_RUNS",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # keeps our section the first
        "compareRunSections": [
            {"uuid": name, "name": name, "display": name == _SECTION, "isReordered": True, "deleted": False}
            | {"isGenerated": name != _SECTION}
            for name in (_SECTION, *_FOLDED)
        ],
        "compareRunCharts": [
            {"deleted": False, "isGenerated": False, "metricSectionId": _SECTION, "runsCountToCompare": 20}
            | {"uuid": f"{_SECTION}-{number}", **chart}
            for number, chart in enumerate(_charts(view))
        ],
    }
    return json.dumps(facets | page)


def _charts(view: View) -> list[Mapping[str, Any]]:
    last = {"type": "BAR", "metricKey": view.metrics[0], "displayName": f"{view.metrics[0]} (%)"}
    copies, accuracy = ({"key": name, "type": "METRIC"} for name in ("cost/copies", view.metrics[0]))
    return [
        last,
        {"type": "SCATTER", "xaxis": copies, "yaxis": accuracy, "displayName": "copies of the weights and accuracy"},
        *(
            _line(name, title)
            for name, title in (("val_accuracy", "validation accuracy (%)"), ("val_loss", "its loss"))
        ),
    ]


def _line(name: str, title: str) -> Mapping[str, Any]:
    metric = f"epoch/{name}"
    shown = {"metricKey": metric, "selectedMetricKeys": [metric], "displayName": f"{title}, by epoch"}
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric"}
    free = {"yAxisExpressions": [], "range": {}, "lineSmoothness": 0, "useGlobalXaxisKey": True}
    return {"type": "LINE", **shown, **axes, **free, "useGlobalLineSmoothing": True}
