"""What README.md says of the results: made from the records, and put between two markers per section."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import ComparisonSettings
from layerpipe2.lab.runs.records import write_text
from paper_figures.claims import training
from paper_figures.claims.answers import answers
from paper_figures.pages import fill
from paper_figures.pages.report import claims
from paper_figures.records.regimes import Regimes
from paper_figures.records.theory import Theory
from paper_figures.records.training import Records
from paper_figures.text import dataset_label

REMEDY = "python -m paper_figures.build readme"


def update(path: Path, sections: Mapping[str, str], *, check: bool) -> None:
    """Put every section between its markers in the file at ``path``, or with ``check`` only compare.

    Raises:
        UserError: if the file can't be read, lacks a marker, or (``check``) is out of date.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"'{path}' cannot be read ({error}); give its path with --readme or its folder with --docs"
        ) from None
    new = old
    for name, content in sections.items():
        new = _with_section(new, name, content, path)
    if new != old:
        if check:
            raise UserError(f"results in '{path}' are not those of the records; run: {REMEDY}")
        write_text(path, new)


def markers(name: str) -> tuple[str, str]:
    """The two lines between which the section called ``name`` stands."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _with_section(text: str, name: str, content: str, path: Path) -> str:
    begin, end = markers(name)
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in after or end in before:
        raise UserError(f"'{path}' must contain '{begin}' and, after it, '{end}', once each; add the two lines")
    return f"{before}{begin}\n{content}{end}{after}"


def results(
    records: Records, theory: Theory, settings: ComparisonSettings, out: str, measured: Regimes | None = None
) -> str:
    """The section on the results of the default study: a picture, answers in words, and the verdicts on the claims.

    ``out`` is the path of the report's folder from the README.
    """
    judged = training.assay(records, settings)
    found = claims(records, theory, judged, settings, measured)
    content = {
        "answers": answers(judged),
        "dataset": dataset_label(records.dataset),
        "runs": len(records.all_runs),
        "out": out,
        "verdicts": "; ".join(
            f"{', '.join(claim.key for claim in same)} {word}"
            for word, same in groupby(found, key=lambda claim: claim.word_and_caveat)
        ),
    }
    return fill("readme_results.md", content)
