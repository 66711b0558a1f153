"""Draw figures and tables of the measured pipelines and write their page, from the benchmark's records alone.

Run: python -m paper_figures.pipelines.build. Same records, same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from layerpipe2.cli.console import run_command
from layerpipe2.runs.records import writable_folder, write_json, write_text
from paper_figures import render, style
from paper_figures.pipelines import figures, memory, tables, timeline
from paper_figures.pipelines.claims import claims
from paper_figures.pipelines.page import page
from paper_figures.pipelines.records import PipelineRecords, load
from paper_figures.tables import markdown


def build(records: PipelineRecords, out: Path) -> None:
    """Write figures, tables as Markdown and CSV, ``verdicts.json``, ``pipelines.md`` and ``pipelines.html``."""
    writable_folder(out / "figures")
    svg = {}
    for stem, draw in _figures(records).items():
        paths = style.save(draw(records), out / "figures" / stem)
        svg[stem] = next(path for path in paths if path.suffix == ".svg").read_bytes()
    for name, table in _tables(records).items():
        write_text(out / "tables" / f"{name}.md", markdown(table))
        write_text(out / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    blocks = page(records)
    write_text(out / "pipelines.md", render.markdown(blocks))
    write_text(out / "pipelines.html", render.html(blocks, svg))
    write_json(out / "verdicts.json", {claim.title: claim.word for claim in claims(records)})


def _figures(records: PipelineRecords) -> dict[str, Callable[[PipelineRecords], Figure]]:
    """What can be drawn of what was measured."""
    study = records.main
    exact = [name.startswith("exact") for name in study.traces]
    possible = {
        "speed": (figures.speed, True),
        "memory": (memory.memory, not study.memory.empty),
        "timeline": (timeline.bubble, not all(exact)),
        "timeline_split": (timeline.split, any(exact)),
        "time_to_target": (figures.time_to_target, not study.targets.empty),
    }
    return {stem: draw for stem, (draw, there) in possible.items() if there}


def _tables(records: PipelineRecords) -> dict[str, pd.DataFrame]:
    study = records.main
    found = {"speed": tables.speeds(study), "speed_over_torch": tables.over_peers(study)}
    found |= {f"speed_{other.network}": tables.speeds(other) for other in records.cuts}
    found |= {"idle": tables.idle(study)} if study.traces else {}
    found |= {"memory": tables.memory(study)} if not study.memory.empty else {}
    return found | ({"time_to_target": tables.targets(study)} if not study.targets.empty else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, read the records, write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("results/pipelines"), help="default: %(default)s")
    parser.add_argument("--network", default="even", help="the network whose pipelines are compared")
    parser.add_argument("--out", type=Path, default=Path("paper_figures/out/pipelines"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    build(load(options.records, options.network), options.out)
    print(f"written: {options.out / 'pipelines.md'}")


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.pipelines.build", main, None))
