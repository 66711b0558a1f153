"""Before training: are all ranks there, and do they run the same code with the same settings?"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from torch.distributed import DistError, PrefixStore, Store

from layerpipe2.errors import UserError
from layerpipe2.runs.provenance import versions
from layerpipe2.runtime.store import Notice, first_line

_POLL_S = 0.05
_LINGER_S = 3.0


def standard_facts() -> dict[str, str]:
    """What must be equal on every rank whatever is trained: the package's code and the versions."""
    return {"code of layerpipe2": package_hash(), **{f"version of {k}": str(v) for k, v in versions().items()}}


@cache
def package_hash(package: Path = Path(__file__).parents[1]) -> str:
    """Hash of the names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def check_agreement(store: Store, rank: int, world_size: int, facts: Mapping[str, str], timeout_s: float) -> None:
    """Wait until all ranks have posted their facts; refuse to go on unless all are equal to rank 0's.

    Every rank raises the same error. Rank 0 leaves last, in case it serves the store.

    Args:
        store: the ranks' common store; used by this thread only.
        rank: this process's rank.
        world_size: number of ranks, as this rank knows it.
        facts: name -> value, such as :func:`standard_facts`, the configuration's fields, the stages of every rank.
        timeout_s: how long to wait for ranks that haven't come.

    Raises:
        UserError: naming the rank that never came, or the rank, the fact and both values that differ.
    """
    facts = {"number of ranks": str(world_size), **facts}
    notice, came = Notice(store), [rank]
    try:
        board = PrefixStore(f"layerpipe2/facts/{store.add(f'layerpipe2/agreements/{rank}', 1)}", store)
        board.set(str(rank), json.dumps(facts))
        verdict = _wait(board, notice, world_size, timeout_s, came)
        if verdict is None:
            verdict = _difference([json.loads(board.get(str(r))) for r in range(world_size)])
        if verdict is None:
            return
        verdict = notice.propose(verdict)
        notice.acknowledge(str(rank))
        if rank == 0:
            notice.linger([str(r) for r in came], _LINGER_S)
    except DistError as error:
        missing = ", ".join(str(r) for r in range(world_size) if r not in came)
        verdict = f"the store of rank 0 is gone while rank(s) {missing} were awaited: {first_line(error)}"
    raise UserError(verdict)


def _wait(board: Store, notice: Notice, world_size: int, timeout_s: float, came: list[int]) -> str | None:
    """Wait for everybody's facts; fills ``came``. Returns why it is in vain, if it is."""
    end = time.monotonic() + timeout_s
    while len(came) < world_size:
        came += [r for r in range(world_size) if r not in came and board.check([str(r)])]
        verdict = notice.read()
        if verdict is not None:
            return verdict
        if time.monotonic() > end and len(came) < world_size:
            missing = [str(r) for r in range(world_size) if r not in came]
            return (
                f"rank {', '.join(missing)} never came: no sign of it for {timeout_s:g} s; start it, or see its output"
            )
        time.sleep(_POLL_S)
    return None


def _difference(all_facts: Sequence[Mapping[str, str]]) -> str | None:
    first = all_facts[0]
    for rank, facts in enumerate(all_facts):
        for name in [*first, *(name for name in facts if name not in first)]:
            mine, theirs = first.get(name, "missing"), facts.get(name, "missing")
            if mine != theirs:
                return (
                    f"rank {rank} differs from rank 0 in {name}: {_short(theirs)} against {_short(mine)}; start all "
                    "ranks with the same settings and code"
                )
    return None


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."
