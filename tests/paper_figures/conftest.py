"""All questions are found once; the published records are read once, and their pages built once."""

from pathlib import Path

import pandas as pd
import pytest

from paper_figures import build
from paper_figures.documents import markers
from paper_figures.page import PAGES, Built, find_questions
from paper_figures.records import RUN

find_questions()

PARTS = ("claims", "accuracy", "reconstruction", "times", "evidence", "pipelines")
DOCUMENTS = {
    "README.md": ("results",),
    "docs/index.md": ("results",),
    "docs/artifact.md": tuple(f"artifact-{part}" for part in PARTS),
}
TOLD = r'id="figure-([\w-]+)">\n\n.+\n\n\*\*[^*]+\*\* \S.+\n\n\[data \(CSV\)\].+ · \[code\].+ · `python .+`\n'
"""A figure with its message, how to read it, its data, its code and its command."""


def arguments(folder: Path, results: Path, *command: str) -> list[str]:
    """Words of a command whose documents and pages lie in a folder."""
    places = {
        "--results": results,
        "--out": folder / "out",
        "--readme": folder / "README.md",
        "--docs": folder / "docs",
    }
    return [*command, *(str(word) for pair in places.items() for word in pair)]


@pytest.fixture(scope="session")
def results(published_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published records, with made-up epochs, which are not published."""
    folder = tmp_path_factory.mktemp("results")
    for path in (published_results / "results").iterdir():
        if path.name != "epochs.csv":
            (folder / path.name).symlink_to(path)
    runs = pd.read_csv(folder / "runs.csv")[[*RUN, "lr"]]
    made = {"train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
    epochs = [runs.assign(epoch=epoch, train_loss=0.5**epoch, **made) for epoch in range(3)]
    pd.concat(epochs).to_csv(folder / "epochs.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def pages(results: Path) -> dict[str, Built]:
    """Every page of these records; no figure is drawn yet."""
    return {name: page.build(page.load(results)) for name, page in PAGES.items()}


@pytest.fixture(scope="session")
def built(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all pages in ``out``, and documents that show their results."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "docs").mkdir()
    for path, names in DOCUMENTS.items():
        sections = "\n\nbetween\n\n".join("\nold\n".join(markers(name)) for name in names)
        (folder / path).write_text(f"# Title\n\n{sections}\n\nafter\n")
    build.main(arguments(folder, results))
    build.main(arguments(folder, results, "readme"))
    return folder
