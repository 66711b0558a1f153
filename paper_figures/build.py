"""Draw figures, write tables and pages from the result tables. Run: python -m paper_figures.build [COMMAND].

(none)     everything: the report, the pages of the evidence, the field, the measured pipelines and the graphs
study DIR  pictures of a study of `layerpipe2 tune`, in DIR/figures
page NAME  one page: report, evidence, field, pipelines, graphs, or that of one experiment, in OUT/experiments/NAME
rule       print the rule of thumb of paper_figures/accuracy/why.py, made anew from the coarse searches
neuron     the picture of docs/theory/spiking.md, in DOCS/pictures
figure F   one figure, as it is called under it: costs_memory of the report, pipelines/speed of another page
readme     the results between the markers of README.md, docs/index.md and docs/artifact.md; --check only compares them

It reads RESULTS/*.csv, RESULTS/theory, RESULTS/evidence/*/tables, RESULTS/pipelines and RESULTS/graphs. Same records,
same bytes.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError, look_up, plain_name
from layerpipe2.lab.runs.lifetime import end_with_parent
from layerpipe2.lab.runs.records import writable_folder
from paper_figures import documents, records, report
from paper_figures.accuracy import why
from paper_figures.page import find_questions
from paper_figures.spiking.neuron import neuron
from paper_figures.style import save

_JOBS = 2


def draw_figure(name: str, results: Path, out: Path) -> Path:
    """Draw one figure of a page, and nothing else.

    Raises:
        UserError: if there is no such page or figure, or its records are missing or broken.
    """
    pages = find_questions()
    page, _, stem = name.rpartition("/")
    found = look_up(pages, page or "report", "page")
    drawn = found.drawings(found.data(found.load(results)))
    _, draw = look_up(drawn, stem, f"figure of page {found.name}")
    folder = writable_folder(out / page.removesuffix("report") / "figures")
    return save(draw(), folder / stem)


def write_page(name: str, results: Path, out: Path) -> str:
    """Write one page with its figures, tables and verdicts; returns what was written.

    Raises:
        UserError: if its records are missing or broken.
    """
    pages = find_questions()
    if name in pages:
        made = pages[name].build(pages[name].load(results))
        return str(made.write(out if name == "report" else out / name))
    folder = results / "evidence"
    found = {name: records.load(folder / plain_name(name, "page") / "tables")}
    made = pages["evidence"].build({"found": found, "causes": {}, "folder": folder}, f"experiments/{name}")
    return str(made.write(out / "experiments" / name))


def write_pages(names: Sequence[str], results: Path, out: Path) -> None:
    """Write pages side by side: none reads what another one writes.

    Raises:
        UserError: as :func:`write_page`, of the first page that can't be written.
    """
    fork, jobs = get_context("fork"), min(_JOBS, len(names))  # figures' libraries are loaded
    with ProcessPoolExecutor(jobs, fork, initializer=end_with_parent) as pool:
        for written in pool.map(write_page, names, repeat(results), repeat(out)):
            print(written, flush=True)


def draw_study(folder: Path) -> None:
    """Write the pictures of the study in a folder.

    Raises:
        UserError: if there is none, or no trial has completed.
    """
    from layerpipe2.lab.tuning.results import best_trials
    from layerpipe2.lab.tuning.study import open_existing
    from paper_figures.study import catalogue, why_no_importance

    study = open_existing(folder)
    if not best_trials(study):
        raise UserError(f"no trial of the study in {folder} has completed; there is nothing to draw yet")
    (folder / "figures").mkdir(exist_ok=True)
    for name, draw in catalogue(study).items():
        print(save(draw(), folder / "figures" / name))
    if why := why_no_importance(study):
        print(f"no picture of the importance of settings: {why}")


def print_rule(results: Path) -> None:
    """Print the rule of thumb as code.

    Raises:
        UserError: if there are no measured cells, or none of them or all of them need a history.
    """
    page = find_questions()["evidence"]
    data = page.data(page.load(results))
    rule = why.fit(data["cells"])
    if rule is None:
        raise UserError(f"no cells in {data['folder']} make a rule; run: python -m experiments.predictors screen-mlp")
    print("RULE = Rule(", *(f"    {name}={value!r}," for name, value in vars(rule).items()), ")", sep="\n")


def update_documents(document: Path, docs: Path, results: Path, out: Path, *, check: bool) -> None:
    """Write the results into README.md and into the pages of ``docs``, or with ``check`` only compare.

    Raises:
        UserError: if records are missing or broken, or (``check``) a document is out of date.
    """
    find_questions()
    known = report.load(results)
    evidence = {claim: value for claim, _, value, _ in documents.claims(results, out)}
    for path in (document, docs / "index.md"):
        links = [Path(os.path.relpath(folder, path.parent)).as_posix() for folder in (out, docs)]
        text = documents.results(known, evidence, links[0], "" if links[1] == "." else f"{links[1]}/")
        documents.update(path, {"results": text}, check=check)
    documents.update(docs / "artifact.md", documents.sections(results, out), check=check)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, then run one command; ends with DVC, if that has started it."""
    if "DVC_STAGE" in os.environ:
        end_with_parent(signal.SIGTERM)
    options = _parser().parse_args(arguments)
    if options.command == "readme":
        return update_documents(options.readme, options.docs, options.results, options.out, check=options.check)
    if options.command == "rule":
        return print_rule(options.results)
    if options.command == "neuron":
        print(save(neuron(), options.docs / "pictures" / "spiking-neuron"))
        return None
    if options.command == "page" and not options.name:
        raise UserError("page: give a name, as in: python -m paper_figures.build page report")
    if options.command == "figure":
        return print(draw_figure(options.name or "", options.results, options.out))
    if options.command == "study":
        return draw_study(Path(options.name or "study"))
    names = [options.name] if options.command == "page" else list(find_questions())
    return write_pages(names, options.results, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m paper_figures.build", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=("figure", "page", "neuron", "readme", "rule", "study"),
        help="default: everything",
    )
    parser.add_argument("name", nargs="?", help="of the page or figure; folder of the study")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("paper_figures/out"), help="default: %(default)s")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="default: %(default)s")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="readme: change nothing, fail if out of date")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.build", main, None))
