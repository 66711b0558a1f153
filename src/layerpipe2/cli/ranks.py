"""The ranks of this machine, started with torchrun; one line at the end names the rank that failed."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from shutil import rmtree
from socket import gethostname
from subprocess import PIPE, Popen
from tempfile import mkdtemp
from threading import Thread

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from layerpipe2.errors import UserError
from layerpipe2.pipeline.health.agreement import check_agreement, code_and_versions
from layerpipe2.pipeline.store import Notice, host_store, join_store

_PATIENCE_S = 6.0  # for the other machines to read why all end
# The launcher may be killed in a way that lets it do nothing; the kernel then kills the rank (PR_SET_PDEATHSIG).
_DIE_WITH_LAUNCHER = """import ctypes, os, sys
sys.platform == "linux" and ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or sys.exit("layerpipe2: the launcher has ended")
os.execv(sys.executable, [sys.executable, "-u", *sys.argv[2:]])"""


def launch(
    command: Sequence[str], *, processes: int, nodes: int, node_rank: int, host: str, port: int, timeout_s: float
) -> None:
    """Start the ranks and wait for them. Returns when all ranks of this machine have succeeded.

    Args:
        command: arguments of Python: a script, or ``-m`` and a module, and their own arguments.
        processes: ranks on this machine.
        nodes: number of machines; each starts as many processes, or a number of its own.
        node_rank: which of them this is; number 0 serves the store.
        host: address of node 0, the same on all nodes.
        port: port of the store; 0 takes a free one (one machine only).
        timeout_s: how long to wait for other nodes.

    Raises:
        UserError: if the port is taken, a node never comes or runs other code; on SIGTERM, with all ranks.
        SystemExit: with code 2 if a rank failed; one line has said which and why.
        KeyboardInterrupt: on Ctrl-C; all ranks have ended.
    """
    store = (join_store if node_rank else host_store)(host, port, timeout_s)
    check_agreement(store, node_rank, nodes, code_and_versions(), timeout_s, member="node")
    place = f"--nnodes={nodes} --node-rank={node_rank} --nproc-per-node={processes} --master-addr={host}"
    place += f" --master-port={store.port} --rdzv-conf=timeout={max(1, int(timeout_s))}"
    reason = f"the launcher on {gethostname()} ended"
    try:
        _torchrun(place.split(), command)
        reason = ""
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        how = f"was killed by {failure.signal_name()}" if code < 0 else f"ended with exit code {code}"
        reason = f"rank {rank} ({gethostname()}) {how}"
        if code != 2:  # else it has said why itself
            print(f"layerpipe2: {reason}; all ranks end", file=sys.stderr)
        raise SystemExit(2) from None
    except SignalException as caught:
        reason = f"the launcher on {gethostname()} got {caught.sigval.name}"
        raise UserError(f"ended by {caught.sigval.name}, with all ranks") from None
    finally:
        if reason and nodes > 1:
            telling = Thread(target=_tell, args=(reason, host, store.port, node_rank, nodes), daemon=True)
            telling.start()
            telling.join(2 * _PATIENCE_S)  # the store may be cut off


def _torchrun(place: list[str], command: Sequence[str]) -> None:
    """Put ``[rank k]`` in front of every line of a rank; the ranks die with this process."""
    os.environ["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[rank ${rank}] "
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.disable(logging.CRITICAL)  # torchrun logs a dozen lines for every rank that ends
    start = [sys.executable, "-I", "-S", "-c", _DIE_WITH_LAUNCHER, f"{os.getpid()}", *command]
    words = [word.replace("$", "$$") for word in start]  # torchrun fills in $NAMES
    logs = mkdtemp(prefix="layerpipe2-")
    settings = get_args_parser().parse_args([*place, "--tee=3", f"--log-dir={logs}", "--no-python", *words])
    settings.signals_to_handle = "SIGTERM,SIGHUP,SIGQUIT"  # of Ctrl-C every rank would print a traceback
    # Its pipe closes when this process ends, however that may be; then the folder goes, should this process be killed.
    with Popen(["sh", "-c", 'cat; rm -rf "$0"', logs], stdin=PIPE, start_new_session=True):
        try:
            run(settings)  # type: ignore[no-untyped-call]
        finally:
            rmtree(logs, ignore_errors=True)


def _tell(reason: str, host: str, port: int, node_rank: int, nodes: int) -> None:
    """Tell all ranks by the store; node 0, which serves it, stays until all machines have read it."""
    with suppress(DistError, UserError):
        notice = Notice(join_store(host, port, _PATIENCE_S))
        notice.propose(reason)
        notice.acknowledge(f"node {node_rank}")
        if node_rank == 0:
            notice.linger([f"node {n}" for n in range(1, nodes)], _PATIENCE_S)
