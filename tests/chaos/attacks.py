"""The table of attacks."""

from functools import partial

from tests.chaos import checkpoints, fuzzed, guided, killed, pressure, trained
from tests.chaos.attack import Attack

_ON = "started again, it ends with the same numbers; nothing is left behind, no process after 2 s"
_LINE = "it is read or run, or refused in one line within 5 s and 1 GB"

ATTACKS = (
    Attack(
        "kill-train",
        "`layerpipe2 train` is killed (SIGKILL) one to three times at random moments and resumed",
        _ON,
        partial(killed.killed_training, start=killed.one_process, several=False),
        short=5,
        long=90,
        limit_s=120,
    ),
    Attack(
        "kill-rank",
        "one of two processes of a pipeline is killed, forked from one that has imported everything",
        f"the other one is ended too; {_ON}",
        partial(killed.killed_training, start=killed.two_ranks),
        short=2,
        long=40,
        limit_s=120,
    ),
    Attack(
        "kill-launch",
        "`layerpipe2 launch` with two processes: the launcher or one of them is killed",
        f"the others end by themselves; {_ON}",
        partial(killed.killed_training, start=killed.launched, kills=(1,)),
        short=1,
        long=15,
        limit_s=300,
    ),
    Attack(
        "kill-experiment",
        "`python -m experiments.run`: it, one of its workers or their server is killed",
        f"the others end by themselves; {_ON}",
        killed.killed_experiment,
        short=1,
        long=15,
        prepare=killed.experiment_prepared,
        limit_s=300,
    ),
    Attack(
        "kill-track",
        "`python -m experiments.track` is killed, mostly while it makes MLflow's database",
        "started again, it ends with every record copied once; nothing is left behind",
        killed.killed_tracking,
        short=2,
        long=40,
        limit_s=120,
    ),
    Attack(
        "fuzz-experiment",
        "files of experiments with other values, anchors that explode, deep nesting, keys twice, foreign encodings",
        _LINE,
        fuzzed.experiment,
        short=200,
        long=6000,
    ),
    Attack(
        "fuzz-settings",
        "settings of a run in Python, of all types",
        _LINE,
        fuzzed.settings,
        short=200,
        long=6000,
    ),
    Attack(
        "fuzz-calls",
        "wrong arguments of the public functions",
        _LINE,
        fuzzed.arguments,
        short=100,
        long=3000,
    ),
    Attack(
        "fuzz-command",
        "command lines of `layerpipe2`",
        _LINE,
        fuzzed.command,
        short=60,
        long=2400,
        limit_s=20,
    ),
    Attack(
        "fuzz-data",
        "files of data sets in five formats: cut, altered, replaced by fifos, devices, links; headers that lie",
        _LINE,
        fuzzed.data,
        short=120,
        long=4400,
    ),
    Attack(
        "fuzz-record",
        "files of records: other values, digits, bits, pieces, encodings, nesting",
        "read as it was, or refused in one line",
        fuzzed.damaged_record,
        short=200,
        long=6000,
    ),
    Attack(
        "fuzz-collect",
        "one record of an experiment is damaged, or forged with a right checksum, and all are collected",
        "tables are written, or it is refused in one line; no file is changed outside the output folder",
        fuzzed.collected,
        short=50,
        long=2200,
        prepare=fuzzed.prepare_records,
    ),
    Attack(
        "damage-one",
        "a checkpoint of one process is damaged: bits flipped, cut, overwritten, swapped with another's, a pickle bomb",
        "refused in one line, or resumed to the undamaged one's numbers; nothing is executed",
        partial(checkpoints.damaged, several=False),
        short=40,
        long=1000,
        prepare=partial(checkpoints.prepare, start=killed.one_process),
        limit_s=30,
    ),
    Attack(
        "damage-several",
        "the same with a file of a checkpoint of two processes; two of three times its weights are read by one process",
        "refused in one line, or resumed to the undamaged one's numbers; nothing is executed",
        partial(checkpoints.damaged, several=True),
        short=25,
        long=500,
        prepare=partial(checkpoints.prepare, start=killed.two_ranks),
        limit_s=60,
    ),
    Attack(
        "programs",
        "drawn programs with a `Trainer` that combine layers with state, hooks, callbacks, groups, loaders, schedules,"
        f" strategies, delays, accumulation, checkpoints; {trained.ONE} in one process and {trained.TWO} in two are one"
        " case",
        "losses and weights are those of the clock-driven pipeline of `tests/reference.py`, to 1e-10 or to 1,000"
        " times what a change of the inputs' last bits does to those; or refused in one line, but none that has nothing"
        " unusual in it",
        trained.trained,
        short=1,
        long=400,
        limit_s=600,
    ),
    Attack(
        "fuzz-guided",
        "files of experiments, records (half of them with a right checksum), settings and arrays made by atheris, which"
        f" keeps those that reach new code; {guided.INPUTS:,} of them are one case",
        "each is read, or refused in one line",
        guided.guided,
        short=0,
        long=35,
        limit_s=600,
        memory_gb=2.0,
        needs="atheris",
    ),
    Attack(
        "pressure",
        "a tiny reproduction, while another process holds all but 1.5 GB of the machine's memory",
        "results and figures are those of one that had all the memory, byte for byte but for times",
        pressure.pressed,
        short=0,
        long=10,
        prepare=pressure.prepare,
        limit_s=3600,
        memory_gb=1000.0,
        alone=True,
    ),
)
