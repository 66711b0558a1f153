"""What a person sees in MLflow: our values, in a headless browser; without one, MLflow's server is asked for them."""

import json
from urllib.request import Request, urlopen

import pytest

from experiments import track
from experiments.browser import Browser, find_browser
from experiments.screenshots import served
from layerpipe2.lab.runs import cell_file
from layerpipe2.lab.tracking.view import link
from tests.made_records import record
from tests.sampling import slow

pytestmark = slow  # the prepared pages themselves: tests/experiments/test_tracking.py


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of 2 cells with 2 seeds each: 80 and 85 per cent of test accuracy."""
    folder = tmp_path_factory.mktemp("mlflow")
    for strategy in ("stash", "ema-window"):
        for seed in range(2):
            cell_file.write(folder / "runs" / f"{strategy}-{seed}.json", record(strategy, seed))
    found = track.sources(folder / "runs", [], folder / "none")
    track.track(found, folder / "mlflow.db", folder / "artifacts")
    with served(folder / "mlflow.db") as address:
        yield address


@pytest.fixture(scope="module")
def shown(server):
    """Gives the text of a page once it holds all that it should; without a browser, what the server gives for it."""
    if (program := find_browser()) is None:
        yield lambda key, more, texts: _served(server, key)
        return
    with Browser(program) as browser:

        def read(key, more, texts):
            browser.open(link(server, "1", key) + more)
            browser.wait(" && ".join(f"document.body.innerText.includes({json.dumps(text)})" for text in texts))
            return browser.text()

        yield read


def _served(server, key):
    """The runs of a prepared page, through the interface that the page uses."""
    experiment = _ask(server, "experiments/get?experiment_id=1")["experiment"]
    (state,) = (tag["value"] for tag in experiment["tags"] if tag["key"] == f"mlflow.sharedViewState.{key}")
    query = {"experiment_ids": ["1"], "filter": json.loads(state)["searchFilter"]}
    return json.dumps([experiment["tags"], _ask(server, "runs/search", query)])


def _ask(server, path, query=None):
    data = None if query is None else json.dumps(query).encode()
    with urlopen(Request(f"{server}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)


def test_the_table_shows_cells_with_mean_and_spread(shown):
    text = shown("cells", "", ["ema-window x3", "stash x3", "82.5", "3.5355"])
    assert "ema-window x3 s0" not in text
    assert text.count("82.5") >= 2


def test_the_comparison_groups_the_seeds_of_a_cell(shown):
    text = shown("seeds", "", ["ema-window x3 s0", "stash x3 s1", "80", "85"])
    assert "Group" in text or "groupBy" in text


def test_the_charts_show_accuracies_by_epoch(shown):
    text = shown("cells", "&compareRunsMode=CHART", ["epoch/val_accuracy", "final/test_accuracy"])
    assert "cost/copies" in text
