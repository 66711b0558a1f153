"""Says of each figure which commit drew it: a committed page cannot hold its own commit, so the site adds it."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

FIGURE = re.compile(r'(<figure markdown="1" id="figure-[^"]+">.*?\]\(([^)\s]+\.svg)\).*?)(\n+</figure>)', re.DOTALL)


def of_figures(root: Path, below: str) -> dict[Path, str]:
    """The last commit that changed each figure below a folder of the repository, as in ``commit 0123abc (2026-12-01)``.

    Empty where that is not known: no git, no repository, or a clone without its history. A figure that no commit has
    is left out; one that differs from its last commit, in the index or in the folder, says so.
    """
    figures = f"{below}/*.svg"
    if _git(root, "rev-parse", "--is-shallow-repository").strip() != "false":  # else its oldest commit has every file
        return {}
    # -c: with what a merge itself has changed
    log = _git(
        root, "log", "-c", "--no-show-signature", "--format=@%h (%cs)", "--name-only", "--relative", "--", figures
    )
    changed = {
        root / name for name in _git(root, "diff", "--name-only", "--relative", "HEAD", "--", figures).split("\n")
    }
    found: dict[Path, str] = {}
    commit = ""
    for line in log.split("\n"):
        if line.startswith("@"):
            commit = f"commit {line[1:]}"
        elif (path := root / line).is_file():
            found.setdefault(path, f"{commit}, changed since" if path in changed else commit)
    return found


def added(markdown: str, folder: Path, commits: Mapping[Path, str]) -> str:
    """Put each figure's commit at the end of the line under it; ``folder`` is the page's, which links start from."""

    def with_commit(match: re.Match[str]) -> str:
        commit = commits.get((folder / match[2]).resolve())
        return f"{match[1]} · {commit}{match[3]}" if commit else match[0]

    return FIGURE.sub(with_commit, markdown)


def _git(root: Path, *command: str) -> str:
    """What git prints; nothing where there is no git or it fails."""
    try:
        done = subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""
