"""Time to a loss: how many seconds each choice trains until a loss on held-out data, on one host and on two.

Part ``updates`` trains in simulation: learning rates first, then the confirmation with other seeds. It can run beside
other work, goes on where it was stopped, and does nothing where its results are there. Part ``seconds`` times the
updates on real processes, round after round, and really trains one seed of every choice on one host; run it on an
idle machine. Both are run unless one is named. Part ``target`` shows what sequential trainings reach, from which the
targets were chosen. Examples:

  python -m experiments.pipelines.time_to_loss updates --jobs 2 --out results/pipelines/time_to_loss
  python -m experiments.pipelines.time_to_loss --quick
"""

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.hosts import Namespaces, limited_hosts
from experiments.pipelines.measure import measure_training, seconds_per_batch
from experiments.pipelines.processes import in_random_order, run_ranks, whereabouts
from experiments.pipelines.settings import parse
from experiments.pipelines.trainers import Job
from experiments.pipelines.updates import MEASURED, Design, Network, losses, train_all
from experiments.processes import workers
from layerpipe2.cli import Parser
from layerpipe2.cli.console import run_command
from layerpipe2.lab.runs.records import Row, writable_folder, write_csv, write_json
from layerpipe2.lab.runs.validation import Checked, setting
from layerpipe2.planning.variants import Variant

SECONDS = ("network", "gigabits", "variant", "round", "batches", "fills", "seconds")
CHECKS = ("network", "gigabits", "variant", "seed", "updates", "simulated_loss", "loss", "seconds")
_WARMUP = 2  # mini-batches


class Options(Checked):
    """How much is measured. Raises UserError naming the option, its value and what is allowed."""

    rounds: int = setting(5, "", "times that every choice is timed", ge=1, le=1000)
    batches: int = setting(8, "", "timed mini-batches of a round", ge=1, le=1000)
    jobs: int = setting(1, "", "simulated trainings at a time", ge=1, le=64)
    quick: bool = setting(False, "", "seconds instead of minutes: shows that it works, measures nothing")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure.

    Raises:
        UserError: on a mistake in an option, or if the folder can't be written.
    """
    parser = Parser(prog="python -m experiments.pipelines.time_to_loss", description=__doc__)
    parser.add_argument("part", nargs="?", choices=("target", "updates", "seconds"), help="default: the last two")
    parser.add_argument("--out", type=Path, default=Path("build/pipelines/time_to_loss"), help="default: %(default)s")
    options, read = parse(parser, Options, arguments, "--rounds 1 --batches 2")
    out, design = writable_folder(read.out), Design.read()
    design = design.quick() if options.quick else design
    if read.part == "target":
        _show_targets(design, options.jobs)
        return
    rows, tuned = train_all(design, out, options.jobs)
    if read.part != "updates":
        _measure(design, options, rows, tuned, out)


def _show_targets(design: Design, jobs: int) -> None:
    """The lowest loss within ``target_updates``, by rate and tuning seed of the sequential trainings."""
    for net in design.networks:
        place = net.target_updates // net.every - 1
        with workers(jobs) as pool:
            tasks = [(lr, seed) for lr in net.rates for seed in design.tuning_seeds]
            curves = list(pool.map(losses, *zip(*[(net, "sequential", *task, 0.0) for task in tasks], strict=True)))
        for (lr, seed), curve in zip(tasks, curves, strict=True):
            best = min(curve[: place + 1])
            print(f"{net.network} rate {lr:g} seed {seed}: after {net.every * (place + 1)} updates at best {best:.3f}")


def _measure(design: Design, options: Options, rows: Sequence[Row], tuned: Sequence[Row], out: Path) -> None:
    where = whereabouts()
    with limited_hosts(design.processes) as hosts:
        gigabits = design.gigabits if hosts else ()
        for old in MEASURED:
            (out / old).unlink(missing_ok=True)
        write_json(
            out / "provenance.json", where | {"options": dict(options), "design": design.model_dump(mode="json")}
        )
        choices = list(_choices(design, tuned, gigabits))
        timed = [
            known | {"round": number, "batches": options.batches, "seconds": _timed(net, known, lr, options, hosts)}
            for number, (net, known, lr) in in_random_order(choices, options.rounds)
        ]
        write_csv(out / "seconds.csv", SECONDS, timed)
        here = _choices(design, tuned, gigabits=())
        checks = [row for net, known, lr in here for row in _checked(net, known, lr, rows)]
    write_csv(out / "checks.csv", CHECKS, checks)


def _choices(design: Design, tuned: Sequence[Row], gigabits: Sequence[float]) -> Iterator[tuple[Network, Row, float]]:
    """Network, what names a choice there (``gigabits`` None: one host), and its learning rate."""
    for net in design.networks:
        rates = {row["strategy"]: row["lr"] for row in tuned if row["network"] == net.network and row["chosen"]}
        average = next(name for name in design.averages if name in rates)
        for place in (None, *gigabits):
            for variant in (*design.variants, f"async/{average}"):
                form = Variant.parse(variant)
                if place is None or form.ranks(design.processes) > 1:
                    known = {"network": net.network, "gigabits": place, "variant": variant}
                    yield net, known | {"fills": form.fills(design.processes)}, rates[form.learns_as]


def _timed(net: Network, known: Row, lr: float, options: Options, hosts: Namespaces | None) -> float:
    """Seconds per mini-batch, filling and draining of the pipeline included."""
    job, work = Job(net.config(lr, 0), {1: (0,), len(net.starts): net.starts}), (options.batches, _WARMUP)
    return seconds_per_batch(job, known["variant"], len(net.starts), work, hosts, known["gigabits"])


def _checked(net: Network, known: Row, lr: float, rows: Sequence[Row]) -> Iterator[Row]:
    """The seed with the median number of updates, really trained on one host; nothing where none reached the target."""
    same = {"network": net.network, "strategy": Variant.parse(known["variant"]).learns_as, "part": "confirmation"}
    mine = [r for r in rows if all(r[k] == v for k, v in same.items()) and r["updates"] is not None]
    if mine:
        updates = statistics.median_low([row["updates"] for row in mine])
        row = next(row for row in mine if row["updates"] == updates)
        job = Job(net.config(lr, row["seed"]), {1: (0,), len(net.starts): net.starts})
        ranks, work = Variant.parse(known["variant"]).ranks(len(net.starts)), (updates, net.held_out)
        found = run_ranks(measure_training, ranks, job, known["variant"], *work)
        head = {key: known[key] for key in ("network", "gigabits", "variant")}
        head |= {"seed": row["seed"], "updates": updates, "simulated_loss": row["loss"]}
        yield head | {"loss": found[0]["loss"], "seconds": found[0]["seconds"]}


if __name__ == "__main__":
    sys.exit(run_command("time_to_loss", main, None))
