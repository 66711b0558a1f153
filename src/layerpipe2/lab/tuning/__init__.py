"""Tuning with Optuna: spaces as text, one queue of trials for one machine or many, results as run records."""

from pathlib import Path

from layerpipe2.errors import UserError

MOST_TRIALS = 100_000
"""Of a study."""
MOST_JOBS = 256
"""Processes side by side on one machine."""
JOURNAL = "journal.log"
"""File of a study in its folder."""


def check_there(folder: Path) -> None:
    """Refuse a folder without a study.

    Raises:
        UserError: saying so.
    """
    if not (folder / JOURNAL).is_file():
        raise UserError(f"there is no study in {folder}; start one with `layerpipe2 tune`, or give its folder (--out)")
