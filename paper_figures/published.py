"""The published results: those of a commit, or those that came with a source distribution.

What ``make reproduce`` writes lies in the same folders, so what is published is read from the history: pages and claims
stay those of their own records, whatever this machine has computed since.
"""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.errors import UserError, shown

RESULTS, PAGES = "results", "paper_figures/out"
"""Folders of records and tables, and of pages."""
KEPT = ".published"
"""Folder of a source distribution's own results; git has them otherwise."""
_REMEDY = "clone the repository, or unpack the source distribution anew"


def folder(root: Path, into: Path, revision: str | None = None) -> tuple[Path, str]:
    """A folder with the published :data:`RESULTS` and :data:`PAGES`, and what it is of, in words.

    Args:
        root: top folder of the project.
        into: empty folder for what git has.
        revision: a commit; by default the one that is checked out.

    Raises:
        UserError: if there is no such commit, it has no results, or there is neither a history nor a copy.
    """
    if (root / ".git").exists():
        name = _git(root, "log", "-1", "--format=%h of %cs", revision or "HEAD", "--").decode().strip()
        packed = _git(root, "archive", revision or "HEAD", RESULTS, PAGES)
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(into, filter="data")
        return into, f"commit {name}"
    if revision is not None:
        raise UserError(f"REV is {shown(revision)}, but {root} is no git repository; leave it out, or clone one")
    if (root / KEPT).is_dir():
        return root / KEPT, "the source distribution"
    if (root / RESULTS / "times").exists():
        raise UserError(f"{root} has neither a git history nor {KEPT}, a copy of its published results; {_REMEDY}")
    return root, "the source distribution"


def keep(root: Path) -> None:
    """Copy the results that came with a source distribution, before they are computed anew."""
    if (root / ".git").exists() or (root / KEPT).exists():
        return
    unfinished = root / f"{KEPT}.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in (RESULTS, PAGES):
        shutil.copytree(root / name, unfinished / name)
    unfinished.rename(root / KEPT)


def _git(root: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise UserError("the published results are those of a commit, and there is no git; install it") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().split("\n")[0]
        raise UserError(f"git has no published results ({reason}); give REV the name of a commit that has") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep a copy of the published results, unless git does."""
    Parser(prog="python -m paper_figures.published", description=main.__doc__).parse_args(arguments)
    keep(Path.cwd())


if __name__ == "__main__":
    sys.exit(run_command("paper_figures.published", main, None))
