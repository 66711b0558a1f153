"""The table of attacks."""

from functools import partial

from tests.chaos import callbacks, checkpoints, engine, killed
from tests.chaos.attack import Attack

_ON = "started again, it ends with the same numbers; nothing is left behind, no process after 2 s"

ATTACKS = (
    Attack(
        "kill-train",
        "`layerpipe2 train` is killed (SIGKILL) one to three times at random moments and resumed",
        _ON,
        partial(killed.killed_training, start=killed.one_process, several=False),
        short=12,
        long=200,
        limit_s=120,
    ),
    Attack(
        "kill-rank",
        "one of two processes of a pipeline is killed, forked from one that has imported everything",
        f"the other one ends by itself; {_ON}",
        partial(killed.killed_training, start=killed.two_ranks),
        short=3,
        long=100,
        limit_s=120,
    ),
    Attack(
        "kill-launch",
        "`layerpipe2 launch` with two processes: the launcher or one of them is killed",
        f"the others end by themselves; {_ON}",
        partial(killed.killed_training, start=killed.launched, kills=(1,)),
        short=1,
        long=30,
        limit_s=300,
    ),
    Attack(
        "kill-experiment",
        "`python -m experiments.run`: it, one of its workers or their server is killed",
        f"the others end by themselves; {_ON}",
        killed.killed_experiment,
        short=1,
        long=30,
        prepare=killed.experiment_prepared,
        limit_s=300,
    ),
    Attack(
        "kill-track",
        "`python -m experiments.track` is killed, mostly while it makes MLflow's database",
        "started again, it ends with every record copied once; nothing is left behind",
        killed.killed_tracking,
        short=3,
        long=100,
        limit_s=120,
    ),
    Attack(
        "damage-one",
        "a checkpoint of one process is damaged: bits flipped, cut, overwritten, swapped with another's, a pickle bomb",
        "refused in one line, or resumed to the undamaged one's numbers; nothing is executed",
        partial(checkpoints.damaged, several=False),
        short=100,
        long=5000,
        prepare=partial(checkpoints.prepare, start=killed.one_process),
        limit_s=30,
    ),
    Attack(
        "damage-several",
        "the same with a file of a checkpoint of two processes; two of three times its weights are read by one process",
        "refused in one line, or resumed to the undamaged one's numbers; nothing is executed",
        partial(checkpoints.damaged, several=True),
        short=60,
        long=3000,
        prepare=partial(checkpoints.prepare, start=killed.two_ranks),
        limit_s=60,
    ),
    Attack(
        "engine",
        "small trainings of random layers, stages, delays, strategy, optimizer, clipping, rates, freezing",
        "losses and weights are those of the clock-driven pipeline of `tests/reference.py`, to 1e-12",
        engine.compared,
        short=150,
        long=5000,
        limit_s=60,
    ),
    Attack(
        "callback",
        "such trainings with a callback that, between two epochs, changes weights, freezes or replaces",
        "refused in one line, or equal to the clock-driven pipeline with what was frozen frozen, to 1e-12; a stage"
        " without a delay may go on with its changed weights",
        callbacks.changed,
        short=60,
        long=3000,
        limit_s=60,
    ),
)
