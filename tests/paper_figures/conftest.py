"""All questions are found once, and everything is built once from made-up records."""

import json
from pathlib import Path

import pandas as pd
import pytest

from paper_figures import build
from paper_figures.documents import markers
from paper_figures.page import find_questions
from tests import synthetic_records
from tests.paper_figures import made_map, made_pipelines
from tests.synthetic_records import Accuracies, made_runs, whole

find_questions()

REPORT = {"equivalence_margin_points": 1.0, "significance_level": 0.05, "image_guard": False}
AVERAGES: Accuracies = {
    **{"latest": [0.70, 0.72, 0.69], "ema-span": [0.849, 0.861, 0.842], "ema-window": [0.80, 0.81, 0.79]},
    "stash": [0.85, 0.86, 0.84],
}
PARTS = ("claims", "accuracy", "reconstruction", "times", "evidence", "pipelines")
DOCUMENTS = {"README.md": ("results",), "docs/artifact.md": tuple(f"artifact-{part}" for part in PARTS)}


def experiment(folder: Path, runs: pd.DataFrame, **description: object) -> None:
    """Write an experiment with these runs; its other tables hold little."""
    tables = synthetic_records.make(seeds=1, units={"mlp": 9}, groups=(1,))
    runs = runs.assign(diverged_epoch=None, test_loss=0.5, final_val_accuracy=0.8, lr=runs.get("lr", 0.1))
    runs = runs.assign(best_val_accuracy=0.8, device="cpu")
    synthetic_records.write(folder, tables | {"runs": runs})
    (folder / "experiment.json").write_text(json.dumps(synthetic_records.EXPERIMENT | {"report": REPORT} | description))
    runs[["strategy"]].assign(wall_time_s=36.0).to_csv(folder / "times.csv", index=False)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory, published_results: Path) -> Path:
    """Records of every question: one rate beside the tuned ones, unfinished; a search; pipelines, a map, graphs."""
    folder = tmp_path_factory.mktemp("results")
    synthetic_records.write(folder, synthetic_records.make())
    alone = whole(made_runs({"sequential": [0.88, 0.88, 0.87]})).assign(num_stages=1, group_size=9, convention="none")
    tuned = pd.concat([whole(made_runs(AVERAGES)), alone], ignore_index=True)
    common = whole(made_runs(AVERAGES | {"latest": [None] * 3})).query("strategy != 'stash'").assign(rate="common")
    evidence = folder / "evidence"
    both = pd.concat([tuned, common], ignore_index=True)
    experiment(evidence / "evidence-a" / "tables", both, planned=30, finished=29)
    searched = pd.concat([tuned[tuned["seed"] == 0].assign(rate=f"sgd-{lr}", lr=lr) for lr in (0.1, 0.2)])
    experiment(evidence / "screen-a" / "tables", searched)
    experiment(evidence / "evidence-b" / "tables", tuned, published=False)
    made_pipelines.write(folder / "pipelines")
    made_map.write(folder / "pipelines")
    (folder / "graphs").symlink_to(published_results / "results" / "graphs")
    return folder


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
