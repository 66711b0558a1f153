"""The structure of the house, read off its imports: which room may know which, no circles, walls between the parts."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "src" / "layerpipe2"

FLOORS = (
    ("__main__",),
    ("lab.cli",),
    ("lab.advice", "lab.tuning", "lab.tracking"),
    ("lab.judging",),
    ("lab.own",),
    ("lab.graphs", "lab.reference", "lab.runs"),
    ("lab.data", "lab.looks", "lab.networks", "lab.provenance", "lab"),
    ("cli",),
    ("advice", "checks"),
    ("__init__",),
    ("cutting",),
    ("graphs", "planning", "spiking", "theory"),
    ("pipeline",),
    ("engine",),
    ("optim",),
    ("strategies",),
    ("compiling", "delays", "stages", "versions"),
    ("lightning",),
    ("errors",),
)
"""The rooms of ``src`` from top to bottom: a room may import those below it and itself. ``__init__`` is the face of the
library below; above it lie the commands and the lab."""

LIBRARY_PACKAGES = {"lightning_fabric", "numpy", "pytorch_lightning", "torch", "torchmetrics"}
"""All that a plain install brings, and what any room may import."""

OTHER_PACKAGES = {
    "cli": {"networkx"},
    "compiling": {"numba"},
    "graphs": {"torch_geometric"},
    "strategies": {"numba"},
    "theory": {"networkx", "scipy"},
    "lab.data": {"mnist1d", "sklearn", "torchvision"},
    "lab.graphs": {"sklearn"},
    "lab.judging": {"pandas", "pydantic", "scipy"},
    "lab.reference": {"torchvision"},
    "lab.runs": {"pydantic", "pydantic_core", "tqdm", "yaml"},
    "lab.tracking": {"filelock", "mlflow", "pandas"},
    "lab.tuning": {"filelock", "optuna", "pydantic", "sqlalchemy"},
    "lab.cli": {"tqdm"},
}
"""Room -> what it needs beside them, which an extra brings."""

PARTS = {"src": (), "experiments": ("src",), "paper_figures": ("src", "experiments")}
"""Part of the repository -> the other parts that it may import."""

TARGETS = {"layerpipe2": "src", "experiments": "experiments", "paper_figures": "paper_figures", "tests": "tests"}


def module_of(path: Path) -> str:
    """Dotted name of a file."""
    parts = path.relative_to(ROOT / "src" if path.is_relative_to(ROOT / "src") else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


MODULES = {module_of(path): path for part in PARTS for path in python_files(ROOT / part)}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file names in an import, also within functions and for type checkers alone."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else str(node.module) for name in whole)


def room_of(module: str) -> str:
    """``layerpipe2.engine.audit`` -> ``engine``."""
    parts = module.split(".")
    if parts[1:2] == ["lab"]:
        return ".".join(parts[1:3])
    return parts[1] if len(parts) > 1 else "__init__"


def library_arrows() -> Iterator[tuple[str, str]]:
    for module, path in MODULES.items():
        if module.startswith("layerpipe2"):
            yield from ((module, name) for name in imports(path) if name.split(".")[0] == "layerpipe2")


def test_every_room_imports_only_rooms_below_it():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    wrong = [
        f"{module} -> {name}"
        for module, name in library_arrows()
        if room_of(module) != room_of(name) and floor[room_of(module)] >= floor[room_of(name)]
    ]
    assert not wrong


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_it_may_and_no_file_itself_by_way_of_others(part):
    arrows = nx.DiGraph()
    for module, path in MODULES.items():
        if path.is_relative_to(ROOT / part):
            arrows.add_edges_from((module, name) for name in imports(path))
    assert not list(nx.simple_cycles(arrows))
    parts = {name: TARGETS.get(name.split(".")[0], part) for name in arrows}
    assert [name for name, target in parts.items() if target not in (part, *PARTS[part])] == []


def test_one_file_alone_chooses_which_package_lightning_is():
    lightning = {"lightning", "lightning_fabric", "pytorch_lightning"}
    importing = {
        module
        for module, path in MODULES.items()
        if module.startswith("layerpipe2") and lightning & {name.split(".")[0] for name in imports(path)}
    }
    assert importing == {"layerpipe2.lightning"}


def test_a_room_imports_only_the_packages_that_its_install_brings():
    wrong = [
        f"{module} -> {name}"
        for module, path in MODULES.items()
        if module.startswith("layerpipe2")
        for name in (name.split(".")[0] for name in imports(path))
        if name not in sys.stdlib_module_names | LIBRARY_PACKAGES | {"layerpipe2"}
        and name not in OTHER_PACKAGES.get(room_of(module), ())
    ]
    assert not wrong
