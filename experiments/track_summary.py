"""What MLflow says of an experiment as a whole: its prepared pages, its verdicts, its figures and its report."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from layerpipe2.lab.tracking.book import Book, is_parent
from layerpipe2.lab.tracking.entry import FINGERPRINT, NOTE, SUMMARY, TRIALS, digest
from layerpipe2.lab.tracking.view import VIEWS, link, set_views

_SHOWN = ("*.svg", "*.html", "*.md", "*.json")
_PAPER = "[LayerPipe2](https://arxiv.org/abs/2512.08160)"


class Pages(NamedTuple):
    """The folder of an experiment's figures, report and verdicts."""

    experiment: str
    folder: Path

    @property
    def files(self) -> list[Path]:
        """Those that MLflow can show; none below the folders of other pages."""
        found = [path for top in (self.folder, self.folder / "figures") for kind in _SHOWN for path in top.glob(kind)]
        return sorted(found)

    @property
    def verdicts(self) -> dict[str, str]:
        """Claim or question -> verdict."""
        path = self.folder / "verdicts.json"
        return {str(key): str(value) for key, value in json.loads(path.read_text()).items()} if path.exists() else {}


def add_summary(book: Book, pages: Pages) -> None:
    """Bring the experiment's description, its prepared pages and the run of its figures up to date."""
    runs = book.runs()
    params = {name for run in runs if is_parent(run) for name in run.data.params}
    kinds = {run.data.tags.get("kind") for run in runs}
    keys = [key for key, view in VIEWS.items() if view.kind in kinds or view.kind != TRIALS]
    set_views(book.client, book.identity, params, keys)
    note = "\n".join(_note(book, pages, keys))
    if book.client.get_experiment(book.identity).tags.get(NOTE) != note:
        book.client.set_experiment_tag(book.identity, NOTE, note)
    mark = digest([note, *((str(path), digest(path.read_bytes().hex())) for path in pages.files)])
    old = [run for run in runs if run.data.tags.get("kind") == SUMMARY]
    if not pages.files or any(run.data.tags.get(FINGERPRINT) == mark for run in old):
        return
    book.remove(old)
    own = {"kind": SUMMARY, "experiment": pages.experiment, "current": "true", FINGERPRINT: mark, NOTE: note}
    run = book.create(f"figures and report of {pages.experiment}", own)
    for path in pages.files:
        folder = path.parent.relative_to(pages.folder)
        book.client.log_artifact(run, str(path), None if folder == Path() else str(folder))
    book.end(run)
    book.client.write()


def _note(book: Book, pages: Pages, keys: list[str]) -> Iterator[str]:
    yield f"Runs of `experiments/{pages.experiment}.yaml`, which reproduces {_PAPER}."
    yield ""
    yield from (f"- [{VIEWS[key].title}]({link('', book.identity, key)})" for key in keys)
    if pages.verdicts:
        yield from ("", "| claim | verdict |", "| --- | --- |")
        yield from (f"| {name} | {verdict} |" for name, verdict in pages.verdicts.items())
        yield from (
            "",
            f"Figures, report and evidence: the artifacts of the run `figures and report of {pages.experiment}`.",
        )
