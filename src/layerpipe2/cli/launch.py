"""``layerpipe2 launch``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from layerpipe2.distributed.gpu_settings import set_missing
from layerpipe2.errors import UserError
from layerpipe2.runs.config import Rule, check


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="ranks to start on this machine")
    parser.add_argument("--nodes", type=int, default=1, metavar="M", help="number of machines; default: 1")
    parser.add_argument("--node-rank", type=int, default=0, metavar="R", help="which of them this is; default: 0")
    parser.add_argument("--master", metavar="HOST:PORT", help="address of node 0; one machine alone takes a free port")
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="seconds to wait for the other machines; default: 300"
    )
    parser.add_argument(
        "--threads", type=int, metavar="T", help="threads per rank; default: $OMP_NUM_THREADS, or the cores shared out"
    )
    parser.add_argument(
        "command_line", nargs=argparse.REMAINDER, metavar="-- SCRIPT", help="a Python script, or -m MODULE; arguments"
    )


def run(options: argparse.Namespace) -> None:
    """Start the ranks of this machine and wait for them.

    Raises:
        UserError: on bad settings, a taken port, a machine that never comes.
        SystemExit: with code 2 if a rank has failed; one line has said which and why.
    """
    for name, low in (("processes", 1), ("nodes", 1), ("node_rank", 0), ("threads", 1)):
        rule = Rule("", "", "int", low=low, optional=name == "threads")
        check(f"--{name.replace('_', '-')}", getattr(options, name), rule)
    check("--timeout", options.timeout, Rule("", "", "float", low=0, open_low=True))
    if options.node_rank >= options.nodes:
        raise UserError(f"--node-rank is {options.node_rank}, but --nodes {options.nodes} are numbered from 0")
    host, port = _address(options.master, options.nodes)
    command = options.command_line[1:] if options.command_line[:1] == ["--"] else options.command_line
    if not command or (command[0] != "-m" and not Path(command[0]).is_file()):
        what = f"no file {command[0]}" if command else "no command"
        raise UserError(f"{what}; give a Python script (or -m MODULE) and its arguments after --")
    _set_environment(options.threads, options.processes, host)
    from layerpipe2.distributed.launch import Launch, launch  # torch's agent takes a second to import

    launch(Launch(command, options.processes, options.nodes, options.node_rank, host, port, options.timeout))


def _address(master: str | None, nodes: int) -> tuple[str, int]:
    if master is None:
        if nodes > 1:
            raise UserError("several machines need --master HOST:PORT, the address of node 0, the same on all")
        return "127.0.0.1", 0
    host, _, port = master.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--master is '{master}'; give HOST:PORT, such as 10.0.0.1:29500")
    return host, int(port)


def _set_environment(threads: int | None, processes: int, host: str) -> None:
    """What the ranks inherit, as far as the user hasn't set it."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    set_missing(os.environ)
    # Lost connections are told in one line; torch would add a C++ stack for each.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        from layerpipe2.distributed.interface import interface_towards

        interface = interface_towards(host)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
