"""One case in a process of its own, watched from outside.

Whatever the attack: what appears outside the folder ``out`` while it acts, what it leaves running, whether a bomb has
made its crater, how long it takes and how much memory are looked at.
"""

import json
import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import mkdtemp

from layerpipe2.errors import UserError
from tests.chaos.attack import Attack, Failed, Scene
from tests.chaos.processes import adopt, check_none_left, descendants, fork, kill, processor_s, resident_gb


@dataclass
class Case:
    """A case that is running."""

    attack: Attack
    seed: int
    base: Path
    pid: int
    started: float

    def end(self) -> tuple[str, str] | None:
        """What came of it, and why; None while it runs. One that takes too long or too much is ended."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return self._over()
        outcome, why = "traceback", f"the process ended with status {status}: {(self.base / 'said').read_text()}"
        with suppress(OSError, ValueError):
            outcome, why = json.loads((self.base / "outcome").read_text())
        if (self.base / "crater").exists():
            return "executed", why
        if usage.ru_maxrss / 2**20 > self.attack.memory_gb:
            return "memory", f"{usage.ru_maxrss / 2**20:.1f} GB"
        return outcome, why

    def _over(self) -> tuple[str, str] | None:
        wall, limit = time.monotonic() - self.started, self.attack.limit_s
        if resident_gb(self.pid) > 2 * self.attack.memory_gb:
            outcome = "memory", "ended when it had twice what is allowed"
        elif wall > limit and (processor_s(self.pid) > limit or wall > 4 * limit):  # others may use the processors
            outcome = "hang", f"{wall:.0f} s"
        else:
            return None
        kill([*descendants(self.pid), self.pid])
        os.waitpid(self.pid, 0)
        return outcome


def start(attack: Attack, seed: int, prepared: Path, root: Path) -> Case:
    """Start the case of this seed in a new folder below ``root``."""
    base = Path(mkdtemp(dir=root))
    folder = base / "a" / "b" / "work"  # so that ../../.. is still within base
    folder.mkdir(parents=True)
    scene = Scene(Random(f"{attack.name} {seed}"), folder, prepared)
    return Case(attack, seed, base, fork(lambda: _play(attack, scene, base), base / "said"), time.monotonic())


def _play(attack: Attack, scene: Scene, base: Path) -> None:
    os.chdir(scene.folder)
    temporary = base / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    adopt()
    try:
        act = attack.case(scene)
        before = _files(base, scene.out)
        outcome, why = act(), ""
        check_none_left()
        after = _files(base, scene.out)
        if changed := {path for path in before | after if before.get(path) != after.get(path)}:
            kind = "left" if all(path.is_relative_to(temporary) for path in changed) else "outside"
            raise Failed(kind, f"files: {sorted(map(str, changed))}")
    except UserError as error:
        outcome, why = "refused" if len(str(error).splitlines()) == 1 else "traceback", str(error)
    except Failed as failure:
        outcome, why = failure.kind, failure.why
    except BaseException:
        outcome, why = "traceback", traceback.format_exc()
    (base / "outcome").write_text(json.dumps([outcome, why]))


def _files(base: Path, out: Path) -> dict[Path, int]:
    """Files and folders but those of the case itself, with the time of a file's last change.

    A killed process can't remove the folder of multiprocessing's sockets.
    """
    own = {base / "said", base / "outcome", base / "crater", out}
    paths = (p for p in base.rglob("*") if p not in own and not p.is_relative_to(out) and "/tmp/pymp-" not in str(p))
    return {path: 0 if path.is_dir() else path.lstat().st_mtime_ns for path in paths}
