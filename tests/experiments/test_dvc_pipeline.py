"""The graph of the reproduction: what each stage depends on, and what a change reruns."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.accuracy.schema import read_experiment
from experiments.names import experiments
from tests.sampling import sampled

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
DEFAULT = read_experiment("mnist1d")
PUBLISHED = [name for name in experiments() if read_experiment(name).published and name != DEFAULT.name]
EVIDENCE = STAGES["evidence"]["matrix"]["experiment"]
TRAINED = {f"train@{network}" for network in DEFAULT.networks}


def _name(entry):
    return entry if isinstance(entry, str) else next(iter(entry))


def test_what_a_stage_depends_on_exists_or_is_made_by_another_stage():
    kinds = ("outs", "metrics", "plots")
    made = {_name(entry) for stage in STAGES.values() for kind in kinds for entry in stage.get(kind, [])}
    for stage in STAGES.values():
        for entry in stage["deps"]:
            experiments_of = stage.get("matrix", {}).get("experiment", [""])
            names = [entry.replace("${item.experiment}", name) for name in experiments_of]
            assert entry in made or entry == "results/runs" or all((ROOT / name).exists() for name in names), entry


def test_every_stage_runs_the_code_of_its_own_folder():
    """Also in the copies that ``dvc exp run --temp`` makes, whatever is installed."""
    assert all(stage["cmd"].startswith("PYTHONPATH=src python -m ") for stage in STAGES.values())


def test_all_published_experiments_are_collected():
    assert sorted(PUBLISHED) == sorted(EVIDENCE)
    assert {"results/evidence"} == {str(Path(read_experiment(name).records).parent) for name in EVIDENCE}


def test_the_page_of_curves_needs_no_network(tmp_path):
    """`make plots` writes the script beside it."""
    command = [sys.executable, "-m", "dvc", "plots", "show", "-o", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "index.html").read_text()
    assert re.findall("""(?:src|href)\\s*=\\s*["']([^"']*)""", page) == ["vega.js"]
    assert page.count("vegaEmbed('#") == len(list((ROOT / "results" / "curves").glob("*.csv"))) > 0


def test_the_curves_are_those_of_all_strategies():
    """A name that isn't in the tables would leave one curve of them all."""
    (curves,) = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert set(curves["results/curves"]["y"]) == {"sequential", *DEFAULT.strategies}


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
    for network in DEFAULT.networks:
        _touch(copy / "results" / "runs" / network / "run.json")
    for name in EVIDENCE:
        for part in ("runs", "tables"):
            _touch(copy / Path(read_experiment(name).records.format(name=name)) / part / "record.json")
    _touch(copy / "results" / "pipelines" / "even.json")
    for stage in STAGES.values():
        for kind in ("outs", "metrics", "plots") if "matrix" not in stage else ():
            for entry in map(_name, stage.get(kind, [])):
                path = copy / entry
                _touch(path if path.suffix else path / "content")
    (copy / "results" / "tuned.json").write_text(json.dumps({network: {"lr": 1} for network in DEFAULT.networks}))
    _dvc(copy, "commit", "--force", "--quiet")
    assert _changed(copy) == set()
    return copy


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}\n")


def _dvc(folder, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _changed(folder):
    return set(json.loads(_dvc(folder, "status", "--json")))


def test_a_page_in_html_that_a_fresh_clone_lacks_is_built(finished):
    page = "paper_figures/out/report.html"
    assert subprocess.run(["git", "check-ignore", "--quiet", page], cwd=ROOT, check=False).returncode == 0
    (finished / page).unlink()
    try:
        assert _changed(finished) == {"paper", "track"}
    finally:
        _touch(finished / page)


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
]


@pytest.mark.parametrize(
    ("name", "text", "changed"), sampled(CHANGES, CHANGES[::2]), ids=[f"{name} {text}" for name, text, _ in CHANGES]
)
def test_a_change_reruns_what_it_touches_and_nothing_else(finished, name, text, changed):
    path, content = finished / name, (finished / name).read_text()
    assert text in content
    path.write_text(content.replace(text, {"{}": "{ }", '"""': '"""A change. '}.get(text, text + "7"), 1))
    try:
        assert _changed(finished) == changed
    finally:
        path.write_text(content)
