"""The paper's derivation, one checked move after the other, for any layered network, grouping and clock.

Start: sequential training, one weight register in every loop. With ``n = K - 1`` stage boundaries:

1. n registers (nD) at the feed-forward cutsets at the input and at the output: later results, nothing else.
2. Delayed gradients on the edges gradient -> update, as in delayed LMS: 2nD, 2(n-1)D, 2(n-2)D, ... The number is not
   put in: it is the least that the loops of the graph allow (:func:`constraints.minimum_delays`).
3. Retiming along two cutsets around the first stage: its forward and update nodes by -n, which draws the input's
   registers through them, and its gradient nodes by +n, which draws the output's. Both take nD from its gradient ->
   update edges, and leave n on the boundary behind it in each direction.
4. The same again for the rest of the network, for which that boundary is the input and the output: one register stays
   on the boundary, n - 1 move on, and so forth. At the end every boundary has one register in each direction and no
   gradient -> update edge has any.

The four steps are known from secondary summaries of LayerPipe2 (arXiv 2512.08160); which two cutsets step 3 means is
this project's reading: it is the one that uses up all registers of steps 1 and 2 exactly.

PipeDream's 1F1B comes out of the same moves with another clock. A mini-batch enters every second tick, so the graph is
slowed down by two (all registers doubled), and the turn from forward to backward costs a tick of its own. A loop of
stage k then needs ``S + S + 1`` ticks beside the weight register's one and has ``2 (1 + d)``: ``d = S``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from layerpipe2.delays import DELAY_LAWS, DelayLaw, Delays
from layerpipe2.theory.constraints import minimum_delays, required_registers
from layerpipe2.theory.graph import OUTPUT, Edge, SignalFlowGraph, training_graph
from layerpipe2.theory.moves import insert_at_cutset, insert_delayed_gradients, retime
from layerpipe2.theory.network import LayeredNetwork, chain, group_sizes


@dataclass(frozen=True)
class Step:
    """One step of the derivation.

    Attributes:
        number: 0 to 4, as in the module's text; a letter counts the rounds of step 4.
        title: what is done, in one line.
        graph: the graph afterwards.
        lags: nodes that were retimed, with their lags in ticks; empty for insertions.
    """

    number: str
    title: str
    graph: SignalFlowGraph
    lags: Mapping[str, int]


@dataclass(frozen=True)
class Derivation:
    """All steps, and what can be read off the last one.

    Attributes:
        network: the forward pass.
        sizes: units of every stage.
        law: the delay law that it is derived for.
        steps: from sequential training to the pipeline.
        gradient_delays: delay of every operation with weights, in updates, as inserted in step 2.
        loops: for every such operation the loop that forbids a smaller delay.
    """

    network: LayeredNetwork
    sizes: tuple[int, ...]
    law: DelayLaw
    steps: tuple[Step, ...]
    gradient_delays: Mapping[str, int]
    loops: Mapping[str, Sequence[str]]

    @property
    def pipeline(self) -> SignalFlowGraph:
        """The graph of the last step."""
        return self.steps[-1].graph

    @property
    def delayed(self) -> SignalFlowGraph:
        """The graph of step 2: delayed gradients, nothing retimed yet."""
        return next(step.graph for step in self.steps if step.number == "2")

    @property
    def undelayed(self) -> SignalFlowGraph:
        """The graph of step 1: later results, the gradients still on time."""
        return next(step.graph for step in self.steps if step.number == "1")

    @property
    def num_stages(self) -> int:
        """Number of stages ``K``."""
        return len(self.sizes)

    @cached_property
    def required(self) -> dict[Edge, int]:
        """Registers that every edge of the pipeline needs at least."""
        return required_registers(self.pipeline, self.law.turn)

    @property
    def delays(self) -> tuple[int, ...]:
        """Delay of every stage in updates, largest over its layers; compare ``Delays.per_stage``.

        A stage without weights has the delay that weights would have there: updates during its forward-backward wait.
        """
        return tuple(self._delay(k) for k in range(self.num_stages))

    @property
    def history(self) -> dict[str, int]:
        """Weight versions that an operation needs for its backward tasks beside the latest one."""
        edges = self.pipeline.of_kind("history")
        return {u[1:]: -(-self.pipeline.registers[u, v, k] // self.pipeline.period) - 1 for u, v, k in edges}

    @property
    def in_flight(self) -> dict[str, int]:
        """Mini-batches whose activations an operation holds at one time, the one in work included."""
        edges = self.pipeline.of_kind("kept")
        return {u[1:]: self.pipeline.registers[u, v, k] // self.pipeline.period + 1 for u, v, k in edges}

    def _delay(self, stage: int) -> int:
        in_flight = {op: n for op, n in self.in_flight.items() if self.pipeline.stage(f"F{op}") == stage}
        found = [delay for op, delay in self.gradient_delays.items() if op in in_flight]
        return max(found, default=max(in_flight.values()) - 1)


def derive(
    network: LayeredNetwork | int,
    *,
    group_size: int | None = None,
    groups: Sequence[int] | None = None,
    convention: str = "layerpipe2",
) -> Derivation:
    """Derive the pipeline of a network.

    Args:
        network: a network, or the number of layers of a chain.
        group_size: units per stage; by default every unit is a stage.
        groups: units of each stage, in place of ``group_size``.
        convention: the delay law: ``layerpipe2``, ``pipedream`` or ``none``.

    Raises:
        UserError: on a grouping that does not fit the network, or an unknown delay law.

    >>> derive(4).delays, derive(4, groups=[1, 2, 1]).delays, derive(4, convention="pipedream").delays
    ((6, 4, 2, 0), (4, 2, 0), (3, 2, 1, 0))
    """
    network = chain(network) if isinstance(network, int) else network
    sizes = group_sizes(network.num_units, group_size, groups)
    law = DELAY_LAWS[Delays.by_law(convention, len(sizes)).convention]
    period, n = law.clock(len(sizes), 0)[0], len(sizes) - 1
    graph = training_graph(network, [stage for stage, size in enumerate(sizes) for _ in range(size)], period)
    slowed = f", slowed down {period} times: a mini-batch every {period} ticks" if period > 1 else ""
    steps = [Step("0", f"sequential training{slowed}", graph, {})]
    graph = insert_at_cutset(insert_at_cutset(graph, ("x", "y"), n), set(graph.nodes) - {OUTPUT}, n + law.turn)
    both = f"{n}D and {n + law.turn}D" if law.turn else f"{n}D each"
    steps.append(Step("1", f"feed-forward cutsets at input and output: {both}", graph, {}))
    delays, loops = minimum_delays(graph, required_registers(graph, law.turn))
    graph = insert_delayed_gradients(graph, {op: period * delay for op, delay in delays.items()})
    steps.append(Step("2", "delayed gradients on gradient -> update, the least that every loop allows", graph, {}))
    if period > 1:
        steps.append(_turned(graph, law.turn, period))
    for stage in range(max(1, n)):
        steps.append(_two_cutsets(steps[-1].graph, stage, n - stage))
    return Derivation(network, sizes, law, tuple(steps), delays, loops)


def _turned(graph: SignalFlowGraph, turn: int, period: int) -> Step:
    """Do step 2t of a slowed clock: one register from behind the weights to between forward and backward tasks."""
    lags = {node: turn for node in graph.nodes if graph.nodes[node]["kind"].endswith("gradient")}
    lags |= {f"U{operation}": period - 1 for operation in graph.operations}
    title = f"all gradients by {turn:+d}, all updates by {period - 1:+d}: forward, backward, update in turn"
    return Step("2t", title, retime(graph, lags), lags)


def _two_cutsets(graph: SignalFlowGraph, stage: int, count: int) -> Step:
    """Do steps 3 and 4: ``count`` registers of the first stage, or of the first one that is left."""
    own = {node: data["kind"] for node, data in graph.nodes.items() if data["stage"] == stage}
    lags = {node: _DIRECTION[kind] * count for node, kind in own.items() if count and kind in _DIRECTION}
    number = "3" if stage == 0 else f"4{'' if stage == 1 else f'.{stage}'}"
    title = f"two cutsets around stage {stage}: forward and update {-count:+d}, gradients {count:+d}"
    title = title if count else "one stage: no cutset, nothing to move"
    return Step(number, title, retime(graph, lags), lags)


_DIRECTION = {"forward": -1, "update": -1, "activation gradient": 1, "weight gradient": 1}
