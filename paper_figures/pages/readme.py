"""What README.md says of the results: made from the records, and put between two markers per section."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from layerpipe2.errors import UserError
from layerpipe2.lab.judging.comparisons import Settings
from layerpipe2.lab.judging.designs import LATEST, STASH, pipeline_aware
from layerpipe2.lab.looks import ordered
from layerpipe2.lab.runs.records import write_text
from layerpipe2.strategies import find_strategy, raw_forms
from paper_figures.claims import evidence, training
from paper_figures.claims.assay import CANNOT_TELL, NOT_NEEDED, UNTRAINED, Assay
from paper_figures.pages import fill
from paper_figures.pages.report import claims
from paper_figures.records.regimes import Regimes
from paper_figures.records.theory import Theory
from paper_figures.records.training import Records
from paper_figures.style import labels
from paper_figures.tables import assay as assay_tables
from paper_figures.tables import training as tables
from paper_figures.text import amount, dataset_label, law_label, listed, mean_spread, network_label, span

REMEDY = "python -m paper_figures.build readme"

_ALIKE = {"silent": CANNOT_TELL, "needless": NOT_NEEDED, "untrained": UNTRAINED}

_PIPELINE = ["strategy", "network", "num_stages", "convention"]

_Columns = Mapping[str, Mapping[str, str]]


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
    records: Records,
    theory: Theory,
    settings: Settings,
    out: str,
    confirmed: Mapping[str, Records] | None = None,
    measured: Regimes | None = None,
) -> str:
    """The section on the results, from the confirmed experiments and the default one.

    ``out`` is the path of the report's folder from the README.
    """
    judged_elsewhere = evidence.at_own_rates(evidence.assays(confirmed)) if confirmed else None
    judged = training.assay(records, settings)
    runs = records.runs if not confirmed else pd.concat([found.runs for found in confirmed.values()])
    most = runs[runs["num_stages"] > 1].groupby(_PIPELINE)["history_copies"].max()
    names = set(most.index.get_level_values("strategy"))
    accuracy = tables.accuracy(records)
    found = claims(records, theory, judged, settings, measured)
    content = {
        "evidence": judged_elsewhere
        and {
            "answer": evidence.answer(judged_elsewhere),
            "margins": _margins(judged_elsewhere),
            "delay": _delay(judged_elsewhere),
            **_in_short(assay_tables.verdicts(judged_elsewhere)),
        },
        "judged": len(judged.costs) > 0,
        "in_short": training.in_short(judged, settings),
        "average": max((most[name].max() for name in pipeline_aware(names)), default=0.0),
        "pair": most["pair"].max() if "pair" in names else 0.0,
        "stash": span(most[STASH] if STASH in names else (), "{:.1f}".format),
        "dataset": dataset_label(records.dataset),
        "n": "n" if seeds(accuracy) is None else f"n = {seeds(accuracy)}",
        "law": law_label(records.convention),
        "headline": headline(records, accuracy),
        "out": out,
        "verdicts": "; ".join(
            f"{', '.join(claim.key for claim in same)} {word}"
            for word, same in groupby(found, key=lambda claim: claim.word_and_caveat)
        ),
    }
    return fill("readme_results.md", content)


def _margins(judged: Assay) -> str:
    """Those of the cells in the table: where a history matters, or all."""
    shown = judged.sensitive.costs if judged.costs["sensitive"].any() else judged.costs
    return listed(dict.fromkeys(amount(r.margin, r.unit) for r in shown.itertuples()))


def _delay(judged: Assay) -> str:
    """What the delay alone costs exact stashing where it is shown that a history matters, in words."""
    by_unit = judged.sensitive.costs.groupby("unit", sort=False)["delay"]
    return listed(f"{span(costs, lambda cost: f'{cost:.2g}')} {unit}" for unit, costs in by_unit)


def _in_short(table: pd.DataFrame) -> dict[str, Any]:
    """The table of ``verdicts`` without what most columns have in common (``shared``), raw forms, and per cent signs.

    The latest weights have no row: where there is a column, they lose. Cells where nothing can be told or no history is
    needed, or stashing itself hardly trains, are named (``silent``, ``needless``, ``untrained``) and have no column,
    unless there are no others.
    """
    table = table[~table["strategy"].isin(labels([*raw_forms(), LATEST]))]
    cells = list(table.columns[1:])
    alike = {word: [cell for cell in cells if set(table[cell]) <= {word, "–"}] for word in _ALIKE.values()}
    told = [cell for cell in cells if not any(cell in same for same in alike.values())]
    if not told:
        told, alike = cells, {word: [] for word in alike}
    parts = [cell.split(", ") for cell in (told if len(told) > 1 else cells)]
    counts = Counter(part for cell in parts for part in cell[1:])  # but for the network
    shared = [part for part, count in counts.items() if 2 * count > len(parts) > 1]
    different = any(counts[part] < len(parts) for part in shared)

    def short(cell: str) -> str:
        return ", ".join(part for part in cell.split(", ") if part not in shared)

    shown = table[["strategy", *told]].map(lambda text: text.replace(" %", "")).rename(columns=short)
    said = {key: "; ".join(map(short, alike[word])) for key, word in _ALIKE.items()}
    return said | {"shared": ", ".join(shared) + ", unless named otherwise" * different, "verdicts": shown}


def headline(records: Records, accuracy: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy at the deepest pipeline of each network, strategies by networks, with the modelled copies.

    A number of seeds that all cells share (:func:`seeds`) is left to the caption.
    """
    memory, shared = tables.memory(records), f" (n={seeds(accuracy)})"
    columns: dict[str, dict[str, str]] = {}
    for network in records.networks:
        mine = _deepest(accuracy[accuracy["network"] == network])
        columns[f"{network_label(network)}, {mine['stages'].max()} stages"] = {
            row["strategy"]: mean_spread(row["mean"], row["sd"], row["n"], row["diverged"]).removesuffix(shared)
            for row in mine.to_dict("records")
        }
    most = pd.concat(_deepest(mine) for _, mine in memory.groupby("network")).groupby("strategy")["copies"].max()
    table = _side_by_side("strategy", columns, ordered)
    copies = [f"{most[name]:.1f}" for name in table["strategy"]]
    names = [find_strategy(name).label for name in table["strategy"]]
    return table.assign(**{"strategy": names, "copies of the weights": copies})


def _deepest(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["stages"].isin([1, table["stages"].max()])]


def seeds(accuracy: pd.DataFrame) -> int | None:
    """Completed runs behind every mean of :func:`tables.accuracy`, if it is one number and no run diverged."""
    counts = set(accuracy["n"])
    return int(counts.pop()) if len(counts) == 1 and not accuracy["diverged"].any() else None


def _side_by_side(first: str, columns: _Columns, order: Callable[..., list[str]] = list) -> pd.DataFrame:
    """A column for each mapping, and before them the names of the rows; a dash where a mapping lacks one."""
    rows = order(dict.fromkeys(name for column in columns.values() for name in column))
    cells = {title: [column.get(name, "–") for name in rows] for title, column in columns.items()}
    return pd.DataFrame({first: rows, **cells}, dtype=object)
