"""What a derivation claims, checked on its graphs: nothing here assumes the delay law, it is compared with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from layerpipe2.delays import Delays
from layerpipe2.theory import certificates
from layerpipe2.theory.constraints import lag_ranges
from layerpipe2.theory.derivation import Derivation
from layerpipe2.theory.moves import DELAYED_GRADIENT, FEED_FORWARD, lags_between, loop_through, places


@dataclass(frozen=True)
class Claim:
    """One statement about a derivation, whether its graphs bear it out, and the evidence: what was computed."""

    key: str
    statement: str
    holds: bool
    evidence: str

    def __str__(self) -> str:
        return f"  [{'holds' if self.holds else 'FAILS'}] {self.key}: {self.statement} ({self.evidence})"


def prove(derivation: Derivation) -> tuple[Claim, ...]:
    """Check all claims that apply to the derivation's delay law."""
    claims = [_delay_law, _groups, _engine, _same_function, _places, _legal, _history, _in_flight, _least_delay]
    if derivation.law.name != "none":  # sequential training leaves slack: many retimings, and none has to save
        claims += [_only_retiming, _fewest, _period]
    return tuple(claim(derivation) for claim in claims)


def _of_law(derivation: Derivation) -> dict[str, int]:
    """Return the delay that the law gives every operation's stage."""
    delays = derivation.law.delays(derivation.num_stages)
    nodes = derivation.pipeline.nodes.values()
    return {data["operation"]: delays[data["stage"]] for data in nodes if data["kind"] == "forward"}


def _equal(key: str, statement: str, found: Mapping[str, int], expected: Mapping[str, int]) -> Claim:
    wrong = [f"{op}: {found[op]} for {expected[op]}" for op in found if found[op] != expected[op]]
    span = f"{len(found)} operations, {min(found.values())} to {max(found.values())}"
    return Claim(key, statement, found == expected, "; ".join(wrong[:3]) or span)


def _delay_law(derivation: Derivation) -> Claim:
    found, law = dict(derivation.gradient_delays), _of_law(derivation)
    statement = f"delay of layer l = {derivation.law.formula}, S = stages after it"
    return _equal("delay law", statement, found, {op: law[op] for op in found})


def _groups(derivation: Derivation) -> Claim:
    by_stage: dict[int, set[int]] = {}
    for operation, delay in derivation.gradient_delays.items():
        by_stage.setdefault(derivation.pipeline.stage(f"F{operation}"), set()).add(delay)
    mixed = [stage for stage, delays in by_stage.items() if len(delays) > 1]
    evidence = f"stages {mixed} differ" if mixed else f"{derivation.num_stages} stages"
    return Claim("groups", "all layers of a stage have the same delay", not mixed, evidence)


def _engine(derivation: Derivation) -> Claim:
    delays = Delays.by_law(derivation.law.name, derivation.num_stages)
    holds = delays.per_stage == derivation.delays
    evidence = f"{len(delays.per_stage)} stages" if holds else f"{derivation.delays} for {delays.per_stage}"
    return Claim("engine", "the training engine's delay schedule is the derived one", holds, evidence)


def _same_function(derivation: Derivation) -> Claim:
    lags = lags_between(derivation.delayed, derivation.pipeline)  # raises if it is no retiming
    reach = f"lags from {min(lags.values())} to {max(lags.values())} ticks"
    return Claim("function", "steps 3 and 4 only retime: no loop and no input-output path changes delay", True, reach)


def _places(derivation: Derivation) -> Claim:
    """Compare edges that gained registers without a retiming with loops that are searched edge by edge."""
    graph, kinds = derivation.undelayed, places(derivation.undelayed)
    wrong = [edge for edge in graph.edges if (kinds[edge] == FEED_FORWARD) == bool(loop_through(graph, edge))]
    grown = {"1": FEED_FORWARD, "2": DELAYED_GRADIENT}
    for before, step in pairwise(derivation.steps[:3]):
        more = [e for e in graph.edges if step.graph.registers[e] > before.graph.registers[e]]
        wrong += [edge for edge in more if kinds[edge] != grown[step.number]]
    free = [sum(kind == wanted for kind in kinds.values()) for wanted in grown.values()]
    statement = "registers are inserted in feed-forward cutsets and on gradient -> update edges only"
    evidence = f"{free[0]} edges in feed-forward cutsets, {free[1]} gradient -> update, {len(kinds) - sum(free)} others"
    return Claim("places", statement, not wrong, f"not so: {wrong[:3]}" if wrong else evidence)


def _legal(derivation: Derivation) -> Claim:
    graph, required = derivation.pipeline, derivation.required
    short = [edge for edge in graph.edges if graph.registers[edge] < required[edge]]
    statement = "every boundary has its registers, and every weight is read from its own"
    return Claim("pipelined", statement, not short, f"short: {short[:3]}" if short else f"{len(required)} edges")


def _history(derivation: Derivation) -> Claim:
    statement = "historical weights needed beside the latest = the delay"
    return _equal("history", statement, derivation.history, dict(derivation.gradient_delays))


def _in_flight(derivation: Derivation) -> Claim:
    expected = {op: delay + 1 for op, delay in _of_law(derivation).items()}
    statement = f"mini-batches in flight = {derivation.law.formula} + 1"
    return _equal("activations", statement, derivation.in_flight, expected)


def _least_delay(derivation: Derivation) -> Claim:
    """Find no retiming with any delay less by one, all others as large as one likes: two certificates per layer."""
    graph = derivation.delayed
    tight = [op for op, delay in derivation.gradient_delays.items() if delay]
    kept = [op for op in tight if certificates.loop_deficit(derivation, op) <= 0]
    sample = list(dict.fromkeys([*tight[:1], *tight[len(tight) // 2 :][:1], *tight[-1:]]))
    kept += [op for op in sample if not certificates.smaller_is_infeasible(derivation, op)]
    statement = "no smaller delay of any layer has a pipeline"
    evidence = f"{len(tight)} loops counted, {len(sample)} systems of {len(graph.nodes)} nodes infeasible"
    return Claim("least delay", statement, not kept, f"not so: {kept[:3]}" if kept else evidence)


def _only_retiming(derivation: Derivation) -> Claim:
    ranges = lag_ranges(derivation.delayed, derivation.required)
    free = [node for node, (low, high) in ranges.items() if low != high]
    evidence = f"free: {free[:3]}" if free else f"{len(ranges)} lags fixed"
    return Claim("uniqueness", "no other retiming makes a pipeline of these delays", not free, evidence)


def _fewest(derivation: Derivation) -> Claim:
    found = sum(certificates.shift_registers(derivation.pipeline).values())
    least = certificates.fewest_registers(derivation.delayed, derivation.required)
    holds = abs(found - least) < 1e-6
    return Claim("minimality", "no legal retiming has fewer registers", holds, f"{found} held, optimum {least:.0f}")


def _period(derivation: Derivation) -> Claim:
    """Compare with Leiserson and Saxe's algorithm, which knows neither stages nor the derivation's moves."""
    derived, best, last = certificates.periods(derivation)
    holds = best <= derived and (best == derived or derived > last)
    statement = "the pipeline has the least clock period of any retiming, unless stages are out of balance"
    evidence = f"{derived:g} task times, best retiming {best:g}, last stage {last:g}"
    return Claim("period", statement, holds, evidence)
