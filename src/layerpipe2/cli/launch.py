"""``layerpipe2 launch`` starts the processes of a pipeline on this machine."""

import argparse
import os
import re
from pathlib import Path
from secrets import token_hex

from layerpipe2.errors import UserError, shown
from layerpipe2.pipeline.environment import SECRET, set_missing

_HOST, _PORT = re.compile(r"(?!.*[^.]{64})[\w.:%-]{1,253}", re.ASCII), re.compile("[0-9]{1,5}")
_LEAST = 2 * 10**8
"""Bytes of its own that a process takes which has imported torch and Lightning."""


def run(options: argparse.Namespace) -> None:
    """Start the processes of this machine and wait for them.

    Raises:
        UserError: on bad settings, a taken port, a machine that never comes.
        SystemExit: with code 2 if a process has failed; one line has said which and why.
    """
    if options.node_rank >= options.nodes:
        raise UserError(f"--node-rank is {options.node_rank}, but --nodes {options.nodes} are numbered from 0")
    if options.processes > (most := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _LEAST):
        raise UserError(f"--processes is {options.processes}, and this machine has memory for {most}; give fewer")
    host, port = _address(options.master, options.nodes)
    command = options.command_line[1:] if options.command_line[:1] == ["--"] else options.command_line
    if not command or (command[0] != "-m" and not Path(command[0]).is_file()):
        what = f"no file {shown(command[0])}" if command else "no command"
        raise UserError(f"{what}; give a Python script (or -m MODULE) and its arguments after --")
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ[SECRET] = _secret(options.secret_file, options.nodes)
    set_missing(os.environ, options.processes, host)
    from layerpipe2.cli.ranks import launch  # torch reads the environment when it is imported

    place = {"processes": options.processes, "nodes": options.nodes, "node_rank": options.node_rank}
    launch(command, **place, host=host, port=port, timeout_s=options.timeout)


def _address(master: str | None, nodes: int) -> tuple[str, int]:
    if master is None:
        if nodes > 1:
            raise UserError("several machines need --master HOST:PORT, the address of node 0, the same on all")
        return "127.0.0.1", 0
    host, _, port = master.rpartition(":")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise UserError(f"--master is {shown(master)}; give HOST:PORT, such as 10.0.0.1:29500")
    return host if nodes > 1 else "127.0.0.1", int(port)  # one machine's processes need no network


def _secret(file: str | None, nodes: int) -> str:
    """Return what the processes sign with, so that a stranger on the network can't speak for one of them."""
    remedy = "make one by `(umask 77; openssl rand -hex 32 > job.secret)` and give it to all by --secret-file"
    try:
        secret = Path(file).read_text(encoding="utf-8").strip() if file else os.environ.get(SECRET, "")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--secret-file {file} can't be read ({error}); {remedy}") from None
    if nodes == 1 and not file:
        return secret or token_hex()
    if len(secret) < 16:
        raise UserError(f"several machines need a common secret of at least 16 characters; {remedy}")
    return secret
