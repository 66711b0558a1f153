"""The graph of the reproduction: what each stage depends on, and what a change reruns."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# What these do can't change a number: names of errors, reading and writing, the display, memory, provenance.
_PLUMBING = ("__init__", "console", "errors", "heap", "runs/provenance", "runs/records", "study/pool")
PLUMBING = {f"src/layerpipe2/{name}.py" for name in _PLUMBING} | {
    f"src/layerpipe2/{package}/__init__.py" for package in ("runs", "study")
}

REDRAWN = {"full_scale", "pipelines"}  # from committed records, by a change of any of our code


def _file_of(module: str) -> Path | None:
    base = {"layerpipe2": "src", "paper_figures": "", "experiments": ""}.get(module.split(".")[0])
    if base is None:
        return None
    path = ROOT / base / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def _imports(path: Path) -> set[Path]:
    """Files of this repository that ``path`` imports, wherever in the file; what only a type checker reads is not."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {found for name in names if (found := _file_of(name))}


def _closure(start: Path) -> set[str]:
    seen, todo = set(), [start]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _imports(path)
    return {str(path.relative_to(ROOT)) for path in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_depends_on_the_code_that_it_runs(stage):
    words = STAGES[stage]["cmd"].split()
    script = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
    declared = [entry for entry in STAGES[stage]["deps"] if not entry.startswith(("results", "experiments/full_scale"))]
    needed = _closure(ROOT / script) - PLUMBING
    missing = {path for path in needed if not any(path == d or path.startswith(f"{d}/") for d in declared)}
    assert not missing
    assert not [entry for entry in declared if "/out/" not in entry and not any(n.startswith(entry) for n in needed)]
    assert all((ROOT / path).exists() for path in declared if "/out/" not in path)


def test_there_are_few_enough_stages_for_dvc():
    study = yaml.safe_load((ROOT / "params.yaml").read_text())["study"]
    assert len(STAGES) - 1 + len(study["networks"]) * len(study["groups"]) <= 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the repository in which DVC believes that every stage has run."""
    copy = tmp_path_factory.mktemp("clone")
    for name in ("src", "experiments", "paper_figures"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("out", "__pycache__"))
    shutil.copytree(ROOT / ".dvc", copy / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    study = yaml.safe_load((ROOT / "params.yaml").read_text())["study"]
    for item in (f"{network}-{group}" for network in study["networks"] for group in study["groups"]):
        _touch(copy / "results" / "runs" / item / "run.json")
    for name in REDRAWN:
        _touch(copy / "results" / name / "record.json")
    for stage in list(STAGES.values())[1:]:
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, []):
                path = copy / (entry if isinstance(entry, str) else next(iter(entry)))
                _touch(path if path.suffix else path / "content")
    _dvc(copy, "commit", "--force", "--quiet")
    assert _changed(copy) == set()
    return copy


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}\n")


def _dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _changed(folder: Path) -> set[str]:
    return set(json.loads(_dvc(folder, "status", "--json")))


def _changed_by(copy: Path, name: str, old: str, new: str) -> set[str]:
    path, text = copy / name, (copy / name).read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        return _changed(copy)
    finally:
        path.write_text(text)


def test_a_parameter_of_one_network_reruns_that_network_alone(finished):
    changed = _changed_by(finished, "params.yaml", "vgg: {width: 8", "vgg: {width: 9")
    assert changed == {f"train@vgg-{group}" for group in (1, 2, 4, "sequential")}


def test_the_number_of_processes_reruns_nothing(finished):
    assert _changed_by(finished, "params.yaml", "jobs: 2", "jobs: 7") == set()


def test_the_margin_of_the_tests_reruns_what_states_verdicts(finished):
    assert _changed_by(finished, "params.yaml", "points: 3.0", "points: 1.0") == {"tables", "report"}


def test_figure_code_retrains_nothing(finished):
    changed = _changed_by(finished, "paper_figures/style.py", '"""', '"""A change. ')
    assert changed == {"figures", "tables", "report"} | REDRAWN


def test_engine_code_retrains_everything(finished):
    changed = _changed_by(finished, "src/layerpipe2/engine.py", '"""', '"""A change. ')
    assert len([stage for stage in changed if stage.startswith("train@")]) == 12
    others = {stage for stage in changed if not stage.startswith("train@")}
    assert others == {"theory"} | REDRAWN  # the theory's stability is measured


def test_the_theory_retrains_nothing(finished):
    changed = _changed_by(finished, "src/layerpipe2/theory/proofs.py", '"""', '"""A change. ')
    assert changed == {"theory", "figures", "tables", "report"} | REDRAWN


@pytest.mark.parametrize("name", sorted(REDRAWN))
def test_committed_records_redraw_their_page(finished, name):
    assert _changed_by(finished, f"results/{name}/record.json", "{}", "{ }") == {name}


def test_the_parameters_of_the_full_scale_redraw_its_pages(finished):
    assert _changed_by(finished, "experiments/full_scale/params.yaml", "published:", "published:  ") == {"full_scale"}
