"""Draw the figures and tables of a campaign and write its page, from its records alone.

Run: python -m paper_figures.full_scale.build --profile h100. Same records, same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layerpipe2.campaign.params import Profile
from layerpipe2.campaign.tasks import Campaign
from layerpipe2.console import run_command
from layerpipe2.runs.records import writable_folder, write_json, write_text
from paper_figures import render, style
from paper_figures.build import read_params
from paper_figures.claims.equivalence import Settings
from paper_figures.full_scale import comparisons, figures
from paper_figures.full_scale.page import page
from paper_figures.full_scale.records import CampaignRecords, load
from paper_figures.full_scale.verdicts import verdicts

PARAMS = Path("experiments/full_scale/params.yaml")


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
    """Parse, read the records, write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="h100", help="a profile of the parameters; default: %(default)s")
    parser.add_argument("--params", type=Path, default=PARAMS, help="default: %(default)s")
    parser.add_argument("--records", type=Path, help="folder of the records; default: results/full_scale/<profile>")
    parser.add_argument("--out", type=Path, help="default: paper_figures/out/full_scale/<profile>")
    options = parser.parse_args(arguments)
    profile = Profile.from_file(options.params, options.profile)
    records = load(Campaign(profile, options.records or Path("results/full_scale") / profile.name))
    out = options.out or Path("paper_figures/out/full_scale") / profile.name
    build(records, _settings(options.params), out)
    print(f"{records.finished} of {records.planned} runs: {out / 'page.md'}")


def _settings(params: Path) -> Settings:
    """Margin and level; verdicts are about the fixed test images, see :mod:`paper_figures.full_scale.comparisons`."""
    return replace(Settings.from_params(read_params(params)), image_guard=False)


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.full_scale.build", main, None))
