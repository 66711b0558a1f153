"""The files around the code agree with each other."""

import itertools
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import experiments.field.rows  # noqa: F401  -- committed records have its optimizers
import layerpipe2
from layerpipe2.cli import EXTRAS as EXTRA_OF
from layerpipe2.lab.runs import cell_file
from tests.test_layering import LIBRARY_PACKAGES, imports, python_files

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = {name: [Requirement(entry) for entry in entries] for name, entries in PROJECT["optional-dependencies"].items()}
APART = {name: {requirement.name for requirement in EXTRAS.pop(name)} for name in ("models", "series")}
"""What nothing else needs and `all` is without: packages that slow down every process, or bound pandas."""
NAMED = [*map(Requirement, PROJECT["dependencies"]), *itertools.chain.from_iterable(EXTRAS.values())]
DIRECT = [requirement for requirement in NAMED if requirement.name != "layerpipe2"]
LOCK = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)


def _names(extra):
    """Every package that an extra brings, those of the extras which it names included."""
    inner = [name for entry in EXTRAS[extra] for name in entry.extras if entry.name == "layerpipe2"]
    own = {entry.name for entry in EXTRAS[extra] if entry.name != "layerpipe2"}
    return own.union(*(_names(name) for name in inner))


def test_the_environment_is_python_and_this_package_with_everything():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    assert environment["dependencies"] == [f"python{PROJECT['requires-python']}", "pip", {"pip": ["-e .[all]"]}]


def test_extras_bring_what_their_purpose_needs():
    assert {"models": {"layerpipe2", "timm", "transformers"}, "series": {"layerpipe2", "sktime"}} == APART
    assert _names("all") == set().union(*map(_names, EXTRAS))
    assert {"dvc", "matplotlib", "mlflow", "networkx", "optuna"} <= _names("reproduce")
    assert not _names("reproduce") & (_names("test") | _names("dev"))


PACKAGES = {
    "lightning_fabric": "pytorch-lightning",
    "pydantic_core": "pydantic",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "yaml": "pyyaml",
}
"""What is imported -> the package that brings it, where their names differ."""
OURS = {"layerpipe2", "experiments", "paper_figures", "tests", "examples"}


def _imported(*folders):
    """Packages that the code of these folders imports, without the standard library and this project."""
    files = [path for folder in folders for path in python_files(ROOT / folder)]
    modules = {name.partition(".")[0] for path in files for name in imports(path)}
    return {PACKAGES.get(name, name) for name in modules - OURS - sys.stdlib_module_names}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    core = {Requirement(entry).name for entry in PROJECT["dependencies"]}
    library, harness = _imported("src"), _imported("experiments", "paper_figures")
    assert core == {PACKAGES.get(name, name) for name in LIBRARY_PACKAGES}
    assert library <= core | _names("graphs") | _names("theory") | _names("tracking") | _names("tuning")
    assert harness <= core | _names("reproduce")
    # DVC and what builds the site are programs, psycopg what SQLAlchemy reaches PostgreSQL with.
    assert core | _names("reproduce") == library | harness | {"dvc", "psycopg"} | _names("site")


def test_a_command_names_the_extra_that_brings_what_it_lacks():
    assert all(PACKAGES.get(name, name) in _names(extra) for name, extra in EXTRA_OF.items())


def test_dependencies_are_ranges_without_local_versions():
    for requirement in DIRECT:
        assert re.fullmatch(r">=[\d.]+,<[\d.]+", ",".join(sorted(map(str, requirement.specifier), reverse=True)))


def test_the_lock_holds_every_dependency_at_a_public_version_within_its_range():
    assert {name for name, version in LOCK.items() if not re.fullmatch(r"\d+(\.\w+)+", version)} == set()
    locked = {canonicalize_name(name): version for name, version in LOCK.items()}
    for requirement in DIRECT:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement.name


def test_the_lock_holds_the_versions_of_the_committed_records():
    records = cell_file.read_all(ROOT / "results" / "evidence").values()
    recorded = [record["provenance"]["versions"] for record in records]
    assert recorded
    for versions in recorded:
        packages = {name: version for name, version in versions.items() if name not in ("layerpipe2", "python")}
        assert {name: LOCK[name] for name in packages} == {n: v.partition("+")[0] for n, v in packages.items()}


def test_version_and_licence_are_the_same_everywhere():
    assert PROJECT["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"] == {"path": "src/layerpipe2/__init__.py"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == layerpipe2.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert f"## {layerpipe2.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The wheel and the source distribution, in a folder."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_an_index_takes_the_distributions(distributions):
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions.iterdir())]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout


def test_the_source_distribution_is_the_repository(distributions):
    (archive,) = distributions.glob("layerpipe2-*.tar.gz")
    with tarfile.open(archive) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    tracked = set(
        subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    )
    present = {name for name in tracked if (ROOT / name).exists()}
    assert not present - packed
    ignored = (".venv", "data/", "results/times", "results/tune/", "build/")
    assert not [name for name in packed if name.startswith(ignored)]


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'pipelined'"):
        _ = layerpipe2.pipelined
    with pytest.raises(ImportError, match=r"layerpipe2\.make_history is layerpipe2\.make_strategy since version 0\.2"):
        _ = layerpipe2.make_history


def _planned(*arguments):
    """Commands that make would run in an environment where nothing is installed yet."""
    command = ["make", "--no-print-directory", "--dry-run", "VENV=absent", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("target", "extra"), [("reproduce", "reproduce"), ("test", "all")])
def test_each_target_installs_what_it_needs(target, extra):
    assert f"--editable '.[{extra}]'" in _planned(target)
    locked = _planned(target, "LOCKED=1")
    assert "constraints.txt" not in _planned(target)
    assert "--constraint constraints.txt --editable" in " ".join(locked.replace("\\\n", "").split())
