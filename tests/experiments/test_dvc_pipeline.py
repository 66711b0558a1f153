"""The graph of the reproduction: what each stage depends on, and what a change reruns."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import yaml

from experiments.accuracy.schema import read_experiment
from experiments.names import experiments
from tests.sampling import sampled
from tests.small_experiments import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
DEFAULT = read_experiment("mnist1d")
EVIDENCE = STAGES["evidence"]["matrix"]["experiment"]
TRAINED = {f"train@{network}" for network in DEFAULT.networks}


def _names(stage, *kinds):
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


MADE = ("outs", "metrics", "plots")


def test_a_stage_depends_on_what_exists_or_another_makes_and_runs_the_code_of_its_own_folder():
    """Its own folder's code also in the copies that ``dvc exp run --temp`` makes, whatever is installed."""
    made = {name for stage in STAGES.values() for name in _names(stage, *MADE)} | {"results/runs"}
    for stage in STAGES.values():
        assert stage["cmd"].startswith("PYTHONPATH=src python -m ")
        for entry in set(stage["deps"]) - made:
            names = stage.get("matrix", {}).get("experiment", [""])
            assert all((ROOT / entry.replace("${item.experiment}", name)).exists() for name in names), entry


def test_all_published_experiments_are_collected():
    published = [name for name in experiments() if read_experiment(name).published and name != DEFAULT.name]
    assert sorted(published) == sorted(EVIDENCE)
    assert {"results/evidence"} == {str(Path(read_experiment(name).records).parent) for name in EVIDENCE}


def test_the_curves_are_those_of_all_strategies_and_their_page_needs_no_network(tmp_path):
    """A name that isn't in the tables would leave one curve of them all; `make plots` writes the script beside it."""
    (curves,) = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert set(curves["results/curves"]["y"]) == {"sequential", *DEFAULT.strategies}
    command = [sys.executable, "-m", "dvc", "plots", "show", "-o", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "index.html").read_text()
    assert re.findall("""(?:src|href)\\s*=\\s*["']([^"']*)""", page) == ["vega.js"]
    assert page.count("vegaEmbed('#") == len(list((ROOT / "results" / "curves").glob("*.csv"))) > 0


def test_all_code_of_the_figures_redraws_them():
    found = {f"paper_figures/{path.name}" for path in (ROOT / "paper_figures").iterdir()}
    ignored = {"paper_figures/out", "paper_figures/__init__.py", "paper_figures/__pycache__"}
    ignored |= {f"paper_figures/{name}" for name in ("compare.md", "compare.py", "published.py")}  # draw no figure
    assert {entry for entry in STAGES["paper"]["deps"] if entry.startswith("paper_figures")} == found - ignored


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the repository in which DVC believes that every stage has run."""
    copy = tmp_path_factory.mktemp("clone")
    for name in ("src", "experiments", "paper_figures"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("out", "__pycache__"))
    shutil.copytree(ROOT / ".dvc", copy / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    made = [name for stage in STAGES.values() if "matrix" not in stage for name in _names(stage, *MADE)]
    made += [f"results/runs/{network}/run.json" for network in DEFAULT.networks]
    made += [f"results/evidence/{name}/{part}/record.json" for name in EVIDENCE for part in ("runs", "tables")]
    for name in (*made, "results/pipelines/even.json"):
        path = copy / name if Path(name).suffix else copy / name / "content"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    (copy / "results" / "tuned.json").write_text(json.dumps({network: {"lr": 1} for network in DEFAULT.networks}))
    with _dvc(copy) as repo:
        repo.commit(force=True)
    assert _changed(copy) == set()
    return copy


@contextmanager
def _dvc(folder):
    """DVC in this process: its import takes longer than its work."""
    with warnings.catch_warnings(), chdir(folder):
        warnings.simplefilter("ignore")
        from dvc.repo import Repo

        with Repo() as repo:
            yield repo


def _changed(folder):
    with _dvc(folder) as repo:
        return set(repo.status())


CNN = {"train@cnn-small"}
MEASURED = {"graphs", "theory", "paper"}  # networks are trained, and stability is measured
FILE = "experiments/mnist1d.yaml"
CHANGES = [  # the search is frozen: no change reruns it, and its results alone are looked at
    (FILE, "cnn-small: {width: 16", CNN),
    (FILE, "weight_decay: 0.0", TRAINED),
    (FILE, "trials: 15", set()),
    (FILE, "\nseeds: [0", TRAINED),
    (FILE, "probe_seeds: [0", TRAINED),
    (FILE, "other_seeds: [0", TRAINED),
    ("results/tuned.json", '"cnn-small": {"lr": 1', CNN | {"tune"}),
    ("results/tuning.csv", "{}", {"tune", "collect", "paper", "track"}),
    ("src/layerpipe2/lab/tuning/space.py", '"""', {"paper"}),
    (FILE, "jobs: 2", set()),
    (FILE, "points: 0.5", {"collect"}),  # whose experiment.json states the margin
    ("experiments/screen-cnn.yaml", "width: 8", {"evidence@screen-cnn"}),
    ("results/experiment.json", "{}", {"collect", "paper", "track"}),
    ("results/evidence/evidence-mlp/runs/record.json", "{}", {"evidence@evidence-mlp", "paper", "track"}),
    ("results/pipelines/even.json", "{}", {"paper"}),
    ("paper_figures/style.py", '"""', {"paper"}),
    ("src/layerpipe2/engine/step.py", '"""', TRAINED | MEASURED),
    ("src/layerpipe2/theory/proofs.py", '"""', {"theory", "paper"}),
    ("src/layerpipe2/pipeline/memory.py", '"""', {"paper"}),
    ("src/layerpipe2/graphs/csr.py", '"""', {"graphs", "paper"}),
    ("results/graphs/digits/content", "{}", {"graphs", "paper"}),
    ("paper_figures/out/report.md", "{}", {"paper", "track"}),
]


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    sampled(CHANGES, [*CHANGES[::2], CHANGES[-1]]),
    ids=[f"{name} {text}" for name, text, _ in CHANGES],
)
def test_a_change_reruns_what_it_touches_and_nothing_else(finished, name, text, changed):
    path, content = finished / name, (finished / name).read_text()
    assert text in content
    path.write_text(content.replace(text, {"{}": "{ }", '"""': '"""A change. '}.get(text, text + "7"), 1))
    try:
        assert _changed(finished) == changed
    finally:
        path.write_text(content)
