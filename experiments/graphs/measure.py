"""Timed epochs on a sampled graph: what each step from a plain loader to a pipelined one brings."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from experiments.graphs.baseline import NumpyLoader
from layerpipe2.errors import LARGEST
from layerpipe2.graphs import SampledLoader
from layerpipe2.graphs.kernels import batch_key
from layerpipe2.graphs.loader import THREADS, Span
from layerpipe2.graphs.networks import build
from layerpipe2.graphs.sampler import Sampler
from layerpipe2.lab.graphs.data import GraphData
from layerpipe2.lab.runs.records import Row
from layerpipe2.lab.runs.validation import Checked, Real, Several, setting

FanOut = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST)], ...], Field(strict=False, json_schema_extra={"spaced": True})
]


class GraphSettings(Checked):
    """What is measured, and how often.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """

    graph: str = setting("digits", "", "graph: digits, wordnet, cora, citeseer or facebook")
    folder: str | None = setting(None, "", "folder of its files, if they aren't where they always are")
    network: str = setting("sage", "", "network whose training is timed: sage, gin or gat")
    width: int = setting(64, "", "features of a hidden layer", ge=1, le=LARGEST)
    fan_out: FanOut = setting((10, 8, 5), "", "most neighbours per node, from the mini-batch's nodes outwards")
    batch_size: int = setting(128, "", "nodes per mini-batch", ge=1, le=LARGEST)
    threads: Several[Annotated[int, Field(ge=1, le=THREADS)]] = setting((1, 2), "", "numbers of preparing threads")
    rounds: int = setting(5, "", "times that everything is timed", ge=1, le=1000)
    batches: int = setting(60, "", "timed mini-batches per round, or an epoch's if there are fewer", ge=2, le=10_000)
    seeds: int = setting(3, "", "trainings per network and strategy; 0: none", ge=0, le=1000)
    epochs: int = setting(10, "", "epochs of these", ge=1, le=10_000)
    lr: Real = setting(0.003, "", "their learning rate of AdamW", gt=0)


def by_maximum(preparation: Sequence[float], training: Sequence[float], threads: int) -> float:
    """The larger of the two sums instead of their sum, and of the other what nothing hides.

    That is preparing the first mini-batch, or training the last one.
    """
    return max(preparation[0] + sum(training), sum(preparation) / threads + training[-1])


def by_queue(preparation: Sequence[float], training: Sequence[float], threads: int, ahead: int) -> float:
    """The loader's rule, mini-batch by mini-batch.

    Number b is begun by the thread that is free first, but not before number b - ``ahead`` is taken; it is taken when
    it is ready and the one before it has been trained.
    """
    free = [0.0] * threads
    taken: list[float] = []
    end = 0.0
    for number, (prepare, train) in enumerate(zip(preparation, training, strict=True)):
        thread = free.index(min(free))
        start = max(free[thread], taken[number - ahead] if number >= ahead else 0.0)
        free[thread] = start + prepare
        taken.append(max(free[thread], end))
        end = taken[-1] + train
    return end


SERIAL = "reused buffers"
"""The variant whose parts predict the pipelined ones: the same work, in one thread."""


@dataclass
class Bench:
    """Measurements of one graph.

    Attributes:
        times: per round and variant, ms per mini-batch: ``train``, ``prepare`` (waiting for a mini-batch), ``transfer``
            (work on it, wherever it is done) and ``epoch``, all of it.
        predictions: per round and pipelined variant, ms per mini-batch: measured, predicted by either model.
        sampling: per round and sampler, ms per mini-batch: ``wall`` and, of all its threads, ``cpu``.
        spans: of the last round, per variant: thread, what, batch, start and stop in ms.
    """

    data: GraphData
    settings: GraphSettings
    times: list[Row] = field(default_factory=list)
    predictions: list[Row] = field(default_factory=list)
    sampling: list[Row] = field(default_factory=list)
    spans: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings_of_loader = (self.data.train, self.settings.fan_out, self.settings.batch_size)
        torch.manual_seed(0)
        units = build(self.settings.network, self.data.graph, self.settings.fan_out, width=self.settings.width)
        self.network = nn.Sequential(*units).to(self.device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)

    def variants(self) -> dict[str, Callable[[list[Span]], Iterable[tuple[Tensor, Tensor]]]]:
        """Name -> loader, each with one thing more than the one before it."""
        graph = self.data.graph
        half = graph.in_half_precision()

        def threaded(threads: int) -> Callable[[list[Span]], SampledLoader]:
            return lambda spans: self._loader(graph, threads, spans)

        return {
            "plain numpy": lambda _: NumpyLoader(graph, *self.settings_of_loader),
            "compiled sampler": lambda _: NumpyLoader(graph, *self.settings_of_loader, compiled=True),
            SERIAL: threaded(0),
            **{_pipelined(threads): threaded(threads) for threads in self.settings.threads},
            "pipelined, float16 features": lambda spans: self._loader(half, self.settings.threads[0], spans),
        }

    def _loader(self, graph: Any, threads: int, spans: list[Span]) -> SampledLoader:
        more: dict[str, Any] = {"shuffle": True, "threads": threads, "device": self.device, "spans": spans}
        return SampledLoader(graph, *self.settings_of_loader, **more)

    def measure(self) -> None:
        """Everything, ``rounds`` times in turn; what comes before the first round warms up and isn't kept."""
        loaders: dict[str, Any] = {}
        spans: dict[str, list[Span]] = {}
        for name, make in self.variants().items():
            spans[name] = []
            loaders[name] = make(spans[name])
            self._epoch(loaders[name], spans[name])
        for number in range(self.settings.rounds):
            found = {name: self._epoch(loader, spans[name]) for name, loader in loaders.items()}
            for name, parts in found.items():
                self.times.append({"round": number, "variant": name} | self._row(parts, spans[name]))
            self._predict(number, found, loaders)
            self.sampling += [{"round": number} | row for row in self._sampling()]
        shown = (SERIAL, *(name for name in loaders if name.startswith("pipelined")))
        self.spans = [row for name in shown for row in self._span_rows(name, spans[name])]

    def _epoch(self, loader: Iterable[tuple[Tensor, Tensor]], spans: list[Span]) -> list[tuple[int, int, int]]:
        """When each mini-batch was asked for, came, and was trained (ns)."""
        spans.clear()
        found: list[tuple[int, int, int]] = []
        batches = iter(islice(loader, self.settings.batches))
        while True:
            asked = time.monotonic_ns()
            batch = next(batches, None)
            if batch is None:
                return found
            came = time.monotonic_ns()
            self._train(*batch)
            del batch
            found.append((asked, came, time.monotonic_ns()))
            spans.append(Span("training", "train", len(found) - 1, came, found[-1][2]))

    def _train(self, x: Tensor, y: Tensor) -> None:
        x, y = x.to(self.device), y.to(self.device)  # of the plain loaders
        loss = F.cross_entropy(self.network(x), y)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def _row(self, parts: list[tuple[int, int, int]], spans: list[Span]) -> Row:
        each = len(parts) * 1e6
        transfer = sum(span.stop - span.start for span in spans if span.what == "transfer")
        return {
            "train": sum(end - came for _, came, end in parts) / each,
            "prepare": sum(came - asked for asked, came, _ in parts) / each,
            "transfer": transfer / each,
            "epoch": (parts[-1][2] - parts[0][0]) / each,
        }

    def _predict(self, number: int, found: dict[str, list[tuple[int, int, int]]], loaders: dict[str, Any]) -> None:
        prepared = [(came - asked) / 1e6 for asked, came, _ in found[SERIAL]]
        trained = [(end - came) / 1e6 for _, came, end in found[SERIAL]]
        for threads in self.settings.threads:
            name = _pipelined(threads)
            each = len(prepared)
            self.predictions.append(
                {
                    "round": number,
                    "variant": name,
                    "preparation": sum(prepared) / each,
                    "training": sum(trained) / each,
                    "measured": (found[name][-1][2] - found[name][0][0]) / 1e6 / each,
                    "maximum": by_maximum(prepared, trained, threads) / each,
                    "queue": by_queue(prepared, trained, threads, loaders[name].ahead) / each,
                }
            )

    def _sampling(self) -> list[Row]:
        """Sampling alone, for a whole epoch: numpy and compiled, in one thread; compiled in several."""
        plain = NumpyLoader(self.data.graph, *self.settings_of_loader)
        orders = plain.orders()
        rows = [_timed("plain numpy", 1, len(orders), lambda _: [plain.sample(nodes) for nodes in orders])]
        for threads in sorted({1, *self.settings.threads}):
            samplers = [Sampler(self.data.graph, *self.settings_of_loader[1:]) for _ in range(threads)]

            def work(thread: int, samplers: list[Sampler] = samplers) -> None:
                for number in range(thread, len(orders), len(samplers)):
                    samplers[thread].sample(orders[number], batch_key(0, 0, number))

            rows.append(_timed("compiled", threads, len(orders), work))
        return rows

    def _span_rows(self, name: str, spans: list[Span]) -> list[Row]:
        origin = min(span.start for span in spans)
        return [
            {"variant": name, "thread": span.thread, "what": span.what, "batch": span.batch}
            | {"start": (span.start - origin) / 1e6, "stop": (span.stop - origin) / 1e6}
            for span in sorted(spans, key=lambda span: span.start)
        ]


def _pipelined(threads: int) -> str:
    return f"pipelined, {threads} thread{'s' * (threads > 1)}"


def _timed(name: str, threads: int, batches: int, work: Callable[[int], Any]) -> Row:
    """``work(thread)`` in as many threads at one time: ms per mini-batch."""
    cpu, start = time.process_time(), time.perf_counter()
    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall = time.perf_counter() - start
    return {
        "sampler": name,
        "threads": threads,
        "wall": 1e3 * wall / batches,
        "cpu": 1e3 * (time.process_time() - cpu) / batches,
    }
