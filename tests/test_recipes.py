"""The recipes of docs/howto/add-*.md, followed to the letter in a copy of the package, which its own tests judge."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sampling import slow

ROOT = Path(__file__).parents[1]
RECIPES = {
    "strategy": "half-window",
    "delay-law": "late-loss",
    "network": "lenet",
    "data-set": "bars",
    "schedule": "one-by-one",
}
"""Page docs/howto/add-a-<key>.md -> name of the row that it adds."""
CONTRACTS = [
    "tests/strategies",
    "tests/test_reference.py",
    "tests/test_delays_and_stages.py",
    "tests/test_late_loss.py",
    "tests/lab/networks",
    "tests/lab/data",
    "tests/planning",
]
BLOCK = re.compile(r'^```(\w+) title="(\S+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def follow(page: Path, root: Path) -> list[str]:
    """Write the page's new files below ``root``, and its changes into the files there; the paths that it names."""
    blocks = BLOCK.findall(page.read_text())
    code = re.findall(r"^```(?:python|diff)", page.read_text(), re.MULTILINE)
    assert len(blocks) == len(code), f"{page.name}: every block of code needs the path of a file"
    for language, path, text in blocks:
        file = root / path
        if language == "python":
            assert not file.exists(), path
            file.write_text(text)
            continue
        assert language == "diff"
        lines = text.splitlines()
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] != sign) for sign in "+-")
        assert file.read_text().count(old) == 1, f"{page.name}: the lines around a change are not those of {path}"
        file.write_text(file.read_text().replace(old, new))
    return [path for _, path, _ in blocks]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The package and its tests, with all recipes followed; the files that they write or change."""
    root = tmp_path_factory.mktemp("recipes")
    for folder in ("src", "tests", "experiments"):  # some tests take rows of the field
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    touched = []
    for key in RECIPES:
        named = follow(ROOT / "docs" / "howto" / f"add-a-{key}.md", root)
        tables = [path for path in named if (ROOT / path).exists()]
        looks = {"src/layerpipe2/lab/looks.py"} if key == "strategy" else set()
        assert len(set(tables) - looks) == 1, f"adding a {key} changes one file that exists: the table"
        touched += named
    return root, touched


def run(root: Path, *command: str) -> str:
    env = os.environ | {"PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout


def test_every_recipe_is_followed() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "howto").glob("add-a-*.md")}
    assert pages == {f"add-a-{key}" for key in RECIPES}


@pytest.mark.parametrize(
    ("names", "contracts"),
    [
        (["one-by-one"], ["tests/planning/test_schedules_builders.py", "tests/planning/test_schedules_simulator.py"]),
        pytest.param([*RECIPES.values()], CONTRACTS, marks=slow),
    ],
)
def test_the_new_rows_pass_the_tests_of_their_tables(
    names: list[str], contracts: list[str], copy: tuple[Path, list[str]]
) -> None:
    few = "(late-loss and not ema and not pair)"  # every strategy under the new law would take long
    chosen = " or ".join(few if name == "late-loss" else name for name in names)
    said = run(copy[0], "pytest", "-v", "-p", "no:cacheprovider", *contracts, "-k", chosen)
    passed = [line for line in said.splitlines() if " PASSED" in line]
    counts = {name: sum(name in line or name.replace("-", "_") in line for line in passed) for name in names}
    least = {"bars": 2}  # the tests of a data set are two
    assert all(count >= least.get(name, 3) for name, count in counts.items()), counts


def test_the_code_of_the_recipes_has_the_style_of_the_package(copy: tuple[Path, list[str]]) -> None:
    root, touched = copy
    run(root, "ruff", "check", *touched)
    run(root, "ruff", "format", "--check", *touched)
