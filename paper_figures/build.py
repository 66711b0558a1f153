"""Draw figures, write tables and the report from results. Run: python -m paper_figures.build COMMAND.

figures  OUT/figures/*.png and *.svg        tables  OUT/tables/*.csv and *.md
report   OUT/report.md, OUT/report.html (needs the figures) and OUT/verdicts.json
readme   the results between the markers of README.md; --check only holds them against the records

It reads results/*.csv, of the training runs, and results/theory/*.csv. Same records, same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.runs.records import writable_folder, write_json, write_text
from paper_figures import figures, readme, render, report, style, tables, tables_theory, theory_records
from paper_figures.claims import comparisons
from paper_figures.claims.equivalence import Settings
from paper_figures.params import read_params
from paper_figures.records import Records, load
from paper_figures.theory_records import Theory


def write_figures(records: Records, theory: Theory, folder: Path) -> None:
    """Draw every figure into ``folder``."""
    writable_folder(folder)
    for stem, draw in figures.catalogue(records, theory).items():
        style.save(draw(), folder / stem)


def write_tables(records: Records, theory: Theory, settings: Settings, folder: Path) -> None:
    """Write every table into ``folder``: CSV with all digits, Markdown for readers."""
    accuracy, cells = tables.accuracy(records), comparisons.cells(records, settings)
    own = comparisons.own_cells(records, settings)
    found = {
        "accuracy": (accuracy, tables.accuracy_for_readers(accuracy)),
        "equivalence": (cells, report.equivalence_for_readers(cells)),
        "equivalence_own": (own, report.equivalence_for_readers(own, verdicts=False)),
        "proofs": (theory.proofs, tables_theory.proofs(theory)),
        "partitions": (theory.partitions, tables_theory.partitions(theory)),
        "schedules": (theory.schedules, tables_theory.speeds(theory)),
    }
    for make in (tables.training, tables.delays, tables.memory, tables.reconstruction):
        table = make(records)
        found[make.__name__] = (table, tables.for_readers(table))
    for name, (exact, shown) in found.items():
        write_text(folder / f"{name}.csv", exact.to_csv(index=False, lineterminator="\n"))
        write_text(folder / f"{name}.md", tables.markdown(shown))


def write_report(records: Records, theory: Theory, settings: Settings, out: Path) -> None:
    """Write the report as Markdown and as one HTML page, and the verdicts as JSON.

    Raises:
        UserError: if a figure is not there yet.
    """
    blocks = report.report(records, theory, settings)
    svg = {}
    for stem in (block.stem for block in blocks if isinstance(block, render.Image)):
        path = out / "figures" / f"{stem}.svg"
        if not path.is_file():
            raise UserError(f"figure '{path}' does not exist; run first: python -m paper_figures.build figures")
        svg[stem] = path.read_bytes()
    write_text(out / "report.md", render.markdown(blocks))
    write_text(out / "report.html", render.html(blocks, svg))
    found = report.claims(records, theory, settings)
    write_json(out / "verdicts.json", {claim.key: claim.verdict for claim in found})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, read the records, run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("figures", "tables", "report", "readme"))
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the CSV files")
    parser.add_argument("--out", type=Path, default=Path("paper_figures/out"), help="default: %(default)s")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="margin and level of the tests")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="readme: change nothing, fail if out of date")
    options = parser.parse_args(arguments)
    records, theory = load(options.results), theory_records.load(options.results / "theory")
    if options.command == "figures":
        return write_figures(records, theory, options.out / "figures")
    settings = Settings.from_params(read_params(options.params))
    if options.command == "tables":
        return write_tables(records, theory, settings, options.out / "tables")
    if options.command == "report":
        return write_report(records, theory, settings, options.out)
    return readme.update(options.readme, records, theory, settings, options.out, options.check)


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.build", main, None))
