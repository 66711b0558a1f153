"""``layerpipe2 schedule`` simulates and draws pipeline schedules."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from layerpipe2.cli.commands import MOST_TASKS, SIMULATED, SPIKEPIPE
from layerpipe2.cli.console import fitted, print_json, terminal_width, wrapped
from layerpipe2.delays import MOST_UPDATES, aligned
from layerpipe2.errors import UserError, look_up
from layerpipe2.planning import FlopDevice, uniform_costs
from layerpipe2.planning.devices import DEVICE
from layerpipe2.planning.schedules import SCHEDULES, Timeline, build_schedule, repeat, simulate
from layerpipe2.planning.spikepipe import Setting, compare

_LONG, _COLUMNS = 4, 24
"""Updates that synchronous schedules run for (the others do as many batches), and most columns of a drawing."""
_LEGEND = "F forward, B activation gradient, W weight gradient, BW both; - goes on, . waits"


def run(options: argparse.Namespace) -> None:
    """Simulate one schedule and draw it, or compare all of them; or print as JSON what was found.

    Raises:
        UserError: on an unknown schedule, options that it has no use for, or counts that it cannot take.
    """
    look_up({**SCHEDULES, "spikepipe": None}, options.name or "spikepipe", "schedule")
    _check_fit(options)
    processors = options.processors
    if options.name == "spikepipe":
        rows = _spikepipe(_wanted(options, SPIKEPIPE), processors)
        print_json({"schedules": rows}) if options.json else print(_against_standard(rows))
        return
    batches, *times, until = _wanted(options, SIMULATED).values()
    _check_size(processors, batches, times, until)
    if options.name is None:
        lines = [_simulated(name, processors, batches, times) for name in _fitting(processors, batches)]
        if options.json:
            print_json({"schedules": list(map(facts, lines))})
        else:
            print(comparison(lines, processors, batches))
        return
    line = _simulated(options.name, processors, batches, times)
    if options.json:
        print_json(facts(line) | {"actions": actions(line, until)})
        return
    unit, width = min(*times, *(event.end - event.start for event in line.events)), terminal_width()
    print(line.gantt(unit, until) if until else fitted(lambda n: line.gantt(unit, n * unit), _COLUMNS, width))
    print(wrapped(f"{_LEGEND}\n\n{summary(line)}", width))


def facts(line: Timeline) -> dict[str, Any]:
    """Return the steady state (``busy``: share of the time), delays in updates and stored batches by stage."""
    return {
        "schedule": line.schedule.name,
        "time_per_batch": line.period,
        "busy": line.steady_utilisation,
        "delays": list(line.schedule.delays()),
        "in_flight": list(line.in_flight()),
    }


def actions(line: Timeline, until: float | None) -> list[dict[str, Any]]:
    """List what the chart shows: every action that starts before ``until``."""
    return [
        {"processor": one.processor, **one.action._asdict(), "start": one.start, "end": one.end}
        for one in sorted(line.events, key=lambda one: (one.start, one.processor))
        if until is None or one.start < until
    ]


def comparison(lines: Sequence[Timeline], processors: int, batches: int) -> str:
    """Return a line per schedule, and one on what can't take these counts."""
    rows = [["schedule", "time per batch", "busy", "most delayed (updates)", "batches in flight"]]
    for found in map(facts, lines):
        busy, delay, held = f"{100 * found['busy']:.0f} %", max(found["delays"]), max(found["in_flight"])
        rows.append([found["schedule"], f"{found['time_per_batch']:.4g}", busy, str(delay), str(held)])
    missing = [name for name in SCHEDULES if name not in _fitting(processors, batches)]
    left_out = [f"{name} is left out: --batches {batches} is no multiple of {processors}" for name in missing]
    return "\n".join([*aligned(rows), *left_out])


def _wanted(options: argparse.Namespace, defaults: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def _check_fit(options: argparse.Namespace) -> None:
    """Refuse options that the schedule has no use for."""
    useless = SIMULATED if options.name == "spikepipe" else SPIKEPIPE
    for name in (name for name in useless if getattr(options, name) is not None):
        option = f"--{name.replace('_', '-')}"
        if options.name == "spikepipe":
            given = ", ".join(f"--{one.replace('_', '-')}" for one in SPIKEPIPE)
            raise UserError(f"{option} is not for 'spikepipe', whose times come from {given}; leave it out")
        raise UserError(f"{option} is for 'spikepipe' alone; leave it out, or give: schedule spikepipe {option} ..")


def _check_size(processors: int, batches: int, times: Sequence[float], until: float | None) -> None:
    """Refuse what would take too long."""
    if processors * max(processors, batches) > MOST_TASKS:
        raise UserError(
            f"--processors {processors} with --batches {batches} take too long; give smaller ones: processors x "
            f"batches, and processors x processors, of at most {MOST_TASKS}"
        )
    if until is not None and until > MOST_UPDATES * min(times):
        raise UserError(f"--until is {until:g}, more than {MOST_UPDATES:,d} columns; give an earlier end")


def _spikepipe(wanted: Mapping[str, Any], processors: int) -> list[dict[str, Any]]:
    array = replace(DEVICE, rows=wanted["array"], columns=wanted["array"])
    return list(compare((wanted["network"],), (processors,), Setting(array, time_steps=wanted["time_steps"])))


def _against_standard(rows: Sequence[dict[str, Any]]) -> str:
    """Return a line per schedule."""
    lines = [["schedule", "steps per task", "us per batch", "speed", "busy", "links", "MB per batch"]]
    for row in rows:
        shares = [f"{100 * row[name]:.1f} %" for name in ("utilisation", "communication")]
        times = [str(row["steps"]), f"{1e6 * row['period']:.4g}", f"{row['speed']:.2f}"]
        lines.append([row["placement"], *times, *shares, f"{row['megabytes']:.3g}"])
    note = "\nspeed: over standard pipelining; links: their share of the busy time of links and processors"
    return "\n".join(aligned(lines)) + note


def _fitting(processors: int, batches: int) -> list[str]:
    """Return the schedules that can take these counts."""
    return [name for name in SCHEDULES if name != "interleaved" or batches % processors == 0]


def summary(line: Timeline) -> str:
    """Say the steady state, delays and stored batches of one run."""
    schedule = line.schedule
    return (
        f"{schedule.name}: a batch every {line.period:.4g}, processors busy {100 * line.steady_utilisation:.0f} % of "
        f"the time in the steady state\ndelays by stage (updates): {' '.join(map(str, schedule.delays()))}\n"
        f"mini-batches in flight by stage: {' '.join(map(str, line.in_flight()))}"
    )


def _simulated(name: str, processors: int, batches: int, times: Sequence[float]) -> Timeline:
    """Simulate one stage per processor (interleaved: two, half as long) with the given times of F, B and W."""
    parts, together = SCHEDULES[name].stages_per_processor, SCHEDULES[name].synchronous
    long = max(_LONG * batches, _LONG * processors)  # a pipeline must be full before its delays can be seen
    schedule = build_schedule(name, parts * processors, processors, batches if together else long)
    schedule = repeat(schedule, _LONG) if together else schedule
    forward, activation, weight = (time / parts for time in times)
    return simulate(schedule, uniform_costs(parts * processors, forward, activation, weight), FlopDevice(1.0))
