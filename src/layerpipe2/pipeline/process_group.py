"""The processes of a pipeline as one of them sees the others: how it joins them, and what they do together."""

import json
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from layerpipe2.errors import UserError
from layerpipe2.pipeline.devices import transport_of
from layerpipe2.pipeline.environment import interface_towards
from layerpipe2.pipeline.health.agreement import check_agreement, code_and_versions
from layerpipe2.pipeline.health.diagnosis import EVERYONE
from layerpipe2.pipeline.health.watchdog import Watchdog
from layerpipe2.pipeline.links import PeerLost, Watch
from layerpipe2.pipeline.neighbours import TAGS, Endpoint
from layerpipe2.pipeline.store import Notice, agent_hosts_store, first_line, host_store, join_store

_PATIENCE_S = 5.0
_ENDPOINTS = count()  # made by every process in the same order


class ProcessGroup:
    """This process among all, with a watchdog over them.

    Args:
        device: where this process computes.
        timeout_s: seconds after which a process that does not answer counts as failed.

    Attributes:
        rank: number of this process.
        size: number of processes.
        watch: looks after the others; after :meth:`fail` and :meth:`close` after nobody.

    Raises:
        UserError: if no launcher started this process, or the processes run different code.
    """

    def __init__(self, device: torch.device, timeout_s: float) -> None:
        self.device, self.timeout_s = device, timeout_s
        self._transfer_timeout = timedelta(seconds=2 * timeout_s)  # longer than the watchdog's, which knows more
        if not dist.is_initialized():
            self._join()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        label = socket.gethostname()
        self.watch: Watch = Watchdog(*_address(), self.rank, self.size, timeout_s=timeout_s, label=label)

    def agree(self, settings: dict[str, str]) -> None:
        """Refuse to train unless all processes have the same ``settings``.

        Raises:
            UserError: naming the process, the setting and both values.
        """
        store = join_store(*_address(), self.timeout_s)
        check_agreement(store, self.rank, self.size, settings, self.timeout_s, watched=True)

    def endpoint(self) -> Endpoint:
        """Makes links to the neighbours, which no message of an earlier training can reach."""
        backend = "nccl" if transport_of(self.device) == "nccl" else None
        tag = next(_ENDPOINTS) * TAGS
        return Endpoint(self.rank, self.size, self.device, self._transfer_timeout, self.watch, tag, backend)

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in order of rank, in every process; see :meth:`broadcast`."""
        return [self.broadcast(value, rank) for rank in range(self.size)]

    def broadcast(self, value: Any, source: int) -> Any:
        """``value`` of process ``source``, by way of JSON: lists for tuples, strings for paths.

        What comes from another process is never unpickled.
        """
        mine = json.dumps(value, default=os.fspath).encode() if self.rank == source else b""
        size = torch.tensor([len(mine)])
        self.together(lambda: dist.broadcast(size, source))
        text = torch.frombuffer(bytearray(mine or int(size)), dtype=torch.uint8)
        self.together(lambda: dist.broadcast(text, source))
        return json.loads(text.numpy().tobytes())

    def broadcast_tensor(self, value: Tensor | None, source: int) -> Tensor:
        """The tensor of process ``source``, in every process and on its CPU; the others need not have one."""
        form = None if value is None else [list(value.shape), str(value.dtype).removeprefix("torch.")]
        shape, kind = self.broadcast(form, source)
        host = torch.empty(shape, dtype=getattr(torch, kind)) if value is None else value.cpu().contiguous()
        self.together(lambda: dist.broadcast(host, source))
        return host

    def fail(self, error: BaseException) -> None:
        """Tell the other processes why this one ends."""
        if not isinstance(error, PeerLost):
            self.watch.fail(first_line(error))
            self.watch = Watch()

    def close(self) -> None:
        """Stop watching: the others may end."""
        self.watch.close()
        self.watch = Watch()

    def together(self, work: Callable[[], Any]) -> None:
        """Call something of torch.distributed that waits for all processes.

        Raises:
            PeerLost: saying which rank failed and how.
        """
        self.watch.waiting(EVERYONE)
        try:
            work()
        except RuntimeError as error:
            raise PeerLost(self.watch.explain(error)) from error
        self.watch.waiting(None)

    def _join(self) -> None:
        if not dist.is_torchelastic_launched():
            raise UserError(
                "a pipeline of several processes needs a launcher; start the script with "
                "`layerpipe2 launch --processes N -- SCRIPT` or torchrun"
            )
        sys.excepthook = in_one_line
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        serve = host_store if rank == 0 and not agent_hosts_store() else join_store
        store = serve(*_address(), self.timeout_s)
        interface = interface_towards("127.0.0.1") if os.environ.get("LOCAL_WORLD_SIZE") == str(world) else None
        if interface is not None:  # one machine: gloo need not listen to any other
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        settings = code_and_versions() | {"transport of messages": transport_of(self.device)}
        check_agreement(store, rank, world, settings, self.timeout_s)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=self._transfer_timeout)


def in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A user's mistake ends a script as it ends our commands: its message alone, exit code 2.

    The line goes to the process's own standard error: torch calls what was ``sys.excepthook`` when it joined the
    processes with a buffer in place of ``sys.stderr``.
    """
    if not issubclass(kind, UserError):
        return sys.__excepthook__(kind, error, trace)
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    if dist.is_initialized() or _says_it():
        os.write(2, f"layerpipe2: error: {error}\n".encode(errors="replace"))
    os._exit(2)  # the interpreter would end with code 1


def _says_it() -> bool:
    """Say whether this process is its machine's first: before they have met, all make the same mistake."""
    machine = os.environ.get("GROUP_RANK")
    try:
        return machine is None or Notice(join_store(*_address(), _PATIENCE_S)).may_say(machine, os.environ["RANK"])
    except (dist.DistError, KeyError, UserError):
        return True


def _address() -> tuple[str, int]:
    """Return the address of the store where the processes meet, from the launcher."""
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
