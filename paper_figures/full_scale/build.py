"""Draw the figures and tables of campaigns and write their pages, from their records alone.

Run: python -m paper_figures.full_scale.build, for every published profile, or with --profile h100 for any one.
With --readme README.md it writes instead what that file says of them; --check only holds it against the records.
Same records, same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.campaign.params import Profile
from experiments.campaign.tasks import Campaign
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError
from layerpipe2.runs.records import writable_folder, write_json, write_text
from paper_figures import markers, render, style
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale import comparisons, figures, readme
from paper_figures.full_scale.page import page
from paper_figures.full_scale.records import CampaignRecords, load
from paper_figures.full_scale.verdicts import verdicts
from paper_figures.params import read_params

PARAMS = Path("experiments/full_scale/params.yaml")
RECORDS, OUT = Path("results/full_scale"), Path("paper_figures/out/full_scale")


def build(records: CampaignRecords, settings: Settings, out: Path) -> None:
    """Write figures, CSV tables, ``verdicts.json``, ``page.md`` and ``page.html``."""
    writable_folder(out / "figures")
    drawn = {"accuracy": figures.accuracy(records), "differences": figures.differences(records, settings)}
    svg = {}
    for stem, figure in drawn.items():
        paths = style.save(figure, out / "figures" / stem)
        svg[stem] = next(path for path in paths if path.suffix == ".svg").read_bytes()
    against_stash = comparisons.against_stash(records.runs, settings)
    for name, table in {"runs": records.runs, "epochs": records.epochs, "tuning": records.tuning,
                        "against_stash": against_stash}.items():  # fmt: skip
        write_text(out / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    blocks = page(records, settings)
    write_text(out / "page.md", render.markdown(blocks))
    write_text(out / "page.html", render.html(blocks, svg))
    write_json(out / "verdicts.json", {v.question: v.answer for v in verdicts(records.runs, settings)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, read the records, write everything.

    Raises:
        UserError: bad parameters or records, or a profile without a final run.
    """
    options = _parser().parse_args(arguments)
    names = [options.profile] if options.profile else _published(options.params)
    campaigns = [_load(options.params, name, options.records / name) for name in names]
    settings = _settings(options.params)
    if options.readme:
        folder = Path(os.path.relpath(options.out, options.readme.parent))
        pages = [(folder / name / "page.md").as_posix() for name in names]
        content = readme.section(campaigns, settings, pages)
        return markers.update(options.readme, readme.NAME, content, check=options.check, remedy="make readme")
    for name, records in zip(names, campaigns, strict=True):
        build(records, settings, options.out / name)
        print(f"{records.finished} of {records.planned} runs: {options.out / name / 'page.md'}")
    return None


def _published(params: Path) -> list[str]:
    names = read_params(params).get("published")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{params}: published is {names!r}; give a list of profiles whose records are committed")
    return names


def _load(params: Path, name: str, folder: Path) -> CampaignRecords:
    return load(Campaign(Profile.from_file(params, name), folder))


def _settings(params: Path) -> Settings:
    """Margin and level; verdicts are about the fixed test set, see :mod:`paper_figures.full_scale.comparisons`."""
    return replace(Settings.from_params(read_params(params)), image_guard=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="a profile of the parameters; default: those listed as published")
    parser.add_argument("--params", type=Path, default=PARAMS, help="default: %(default)s")
    parser.add_argument("--records", type=Path, default=RECORDS, help="a folder per profile; default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="a folder per profile; default: %(default)s")
    parser.add_argument("--readme", type=Path, help="write into this file instead, between its markers")
    parser.add_argument("--check", action="store_true", help="with --readme: change nothing, fail if out of date")
    return parser


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.full_scale.build", main, None))
