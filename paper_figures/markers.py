"""Results in a Markdown file that people write: what stands between two markers is made from the records."""

from __future__ import annotations

from pathlib import Path

from layerpipe2.errors import UserError
from layerpipe2.runs.records import write_text


def markers(name: str) -> tuple[str, str]:
    """The two lines between which the results called ``name`` stand."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def update(path: Path, name: str, content: str, *, check: bool, remedy: str) -> None:
    """Put ``content`` between the markers of ``name`` in the file at ``path``, or with ``check`` only hold it against.

    Raises:
        UserError: if the file can't be read, lacks the markers, or (``check``) is out of date; says to run ``remedy``.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); give the README's path with --readme") from None
    new = _inject(old, name, content, path)
    if check and new != old:
        raise UserError(f"results in '{path}' are not those of the records; run: {remedy}")
    if new != old:
        write_text(path, new)


def _inject(text: str, name: str, content: str, path: Path) -> str:
    begin, end = markers(name)
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in after or end in before:
        raise UserError(f"'{path}' must contain '{begin}' and, after it, '{end}', once each; add the two lines")
    return f"{before}{begin}\n{content}\n{end}{after}"
