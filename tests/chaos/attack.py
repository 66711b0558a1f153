"""What an attack is, and in which words its cases end."""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random

ALLOWED = ("equal", "refused")
FORBIDDEN = ("traceback", "hang", "executed", "different", "outside", "memory", "left")
"""docs/reliability.md says what each of these words means."""


class Failed(Exception):
    """What came of a case: a ``kind`` of FORBIDDEN, and why."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind, self.why = kind, why


@dataclass(frozen=True)
class Scene:
    """Where a case takes place: its random numbers, its folder, and what its attack has prepared for all cases."""

    random: Random
    folder: Path
    prepared: Path

    @property
    def out(self) -> Path:
        """The output folder, the only one in which files may change."""
        return self.folder / "out"

    @property
    def crater(self) -> Path:
        """The folder that a bomb makes when it is executed."""
        return self.folder.parents[2] / "crater"


Act = Callable[[], str]
"""Returns a word of ALLOWED, or raises: UserError is a refusal, Failed what it says, anything else a traceback."""


@dataclass(frozen=True)
class Attack:
    """One kind of attack. ``case`` makes an input in the scene's folder and returns the act that is looked at.

    docs/reliability.md says under its name what it does, and by which rule a case must end.

    Attributes:
        short: cases of ``make chaos``; ``long``: those of ``make chaos-long``.
        prepare: makes, once and in a process of its own, what all cases need.
        limit_s: seconds that a case may take; memory_gb: gigabytes that its largest process may have.
        alone: no other case runs at the same time.
        needs: a package without which the attack is left out.
    """

    name: str
    case: Callable[[Scene], Act]
    short: int
    long: int
    prepare: Callable[[Path], object] | None = None
    limit_s: float = 5.0
    memory_gb: float = 1.0
    alone: bool = False
    needs: str = ""


def call(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> str:
    """Call a command in this process: "equal" if it completed, "refused" if it said why in one line."""
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            code = main(arguments) or 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return judged(code, said.getvalue())


def judged(code: int, errors: str) -> str:
    """What an exit code and the standard error mean."""
    if code == 0:
        return "equal"
    if code == 2 and len(errors.strip().splitlines()) == 1:
        return "refused"
    raise Failed("traceback", f"exit code {code}: {errors.strip()[-2000:]}")
