"""Are all ranks there before training, and do they run the same code with the same settings?"""

import json
import time
from collections.abc import Mapping, Sequence

from torch.distributed import DistError, Store  # type: ignore[attr-defined]

from layerpipe2.errors import UserError
from layerpipe2.pipeline.environment import SECRET
from layerpipe2.pipeline.store import Notice, SignedPosts, first_line
from layerpipe2.versions import code_hash, versions

_POLL_S = 0.05
_LINGER_S = 3.0


def code_and_versions() -> dict[str, str]:
    """What must be equal on every rank whatever is trained: the package's code and the versions."""
    return {"code of layerpipe2": code_hash(), **{f"version of {k}": str(v) for k, v in versions().items()}}


def check_agreement(
    store: Store,
    rank: int,
    world_size: int,
    settings: Mapping[str, str],
    timeout_s: float,
    member: str = "rank",
    *,
    watched: bool = False,
) -> None:
    """Wait until all ranks have posted their settings; refuse to go on unless all are equal to rank 0's.

    Every rank raises the same error. Rank 0 leaves last, in case it serves the store: a rank may say that it knows why
    all end only when nothing in it can take the store's end for the reason.

    Args:
        store: the ranks' common store; used by this thread only.
        rank: this process's rank.
        world_size: number of ranks, as this rank knows it.
        settings: name -> value, such as :func:`code_and_versions`.
        timeout_s: how long to wait for ranks that haven't come.
        member: what has a "rank" here, as a word; launchers agree as nodes.
        watched: a watchdog looks at the store too, and says that this rank knows once it has been told to stop.

    Raises:
        UserError: naming the rank that never came, or the rank, the fact and both values that differ.
    """
    came: dict[int, Mapping[str, str]] = {rank: {f"number of {member}s": str(world_size), **settings}}
    notice = Notice(store, member)
    try:
        signed = SignedPosts(store, f"layerpipe2/{member}s").within("settings", rank)
        signed.post(str(rank), json.dumps(came[rank]))
        reason = _wait(signed, notice, rank, world_size, timeout_s, came, member)
        reason = reason or _difference([came[r] for r in sorted(came)], member)
        if reason is None:
            return
        reason = notice.propose(reason)
        if not watched:
            notice.acknowledge(str(rank))
            if rank == 0:
                notice.linger([str(r) for r in came], _LINGER_S)
    except DistError as error:
        missing = ", ".join(str(r) for r in range(world_size) if r not in came) or "no one"
        reason = f"{member} 0, with the store, is gone while {member} {missing} was awaited: {first_line(error)}"
    raise UserError(reason)


def _wait(
    signed: SignedPosts,
    notice: Notice,
    rank: int,
    world_size: int,
    timeout_s: float,
    came: dict[int, Mapping[str, str]],
    member: str,
) -> str | None:
    """Wait for everybody's settings, as long as nobody gives up; fills ``came``. Returns why it isn't full."""
    end = time.monotonic() + timeout_s
    while True:
        posts = signed.read(str(r) for r in range(world_size) if r not in came)
        came.update({int(r): json.loads(text) for r, text in posts.items() if text is not None})
        missing = ", ".join(str(r) for r in range(world_size) if r not in came)
        if not missing:
            return None
        if strangers := [int(r) for r, text in posts.items() if text is None]:
            came.update({r: {} for r in strangers})  # the store stays until they had time to find out, too
            remedy = f"give all {member}s the same (--secret-file, or ${SECRET})"
            return f"{member} {strangers[0]} has another secret than {member} {rank}; {remedy}"
        if time.monotonic() > end or notice.read() is not None:
            return f"{member} {missing} never came: no sign of it for {timeout_s:g} s; start it, or see its output"
        time.sleep(_POLL_S)


def _difference(everybody: Sequence[Mapping[str, str]], member: str) -> str | None:
    first = everybody[0]
    for rank, settings in enumerate(everybody):
        for name in [*first, *(name for name in settings if name not in first)]:
            reference, value = first.get(name, "missing"), settings.get(name, "missing")
            if value != reference:
                both = f"{_short(value)} against {_short(reference)}"
                remedy = "start all with the same settings and code"
                return f"{member} {rank} differs from {member} 0 in {name}: {both}; {remedy}"
    return None


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."
