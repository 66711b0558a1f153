"""The table of attacks."""

from functools import partial

from tests.chaos import checkpoints, fuzzed, guided, killed, pressure, trained
from tests.chaos.attack import Attack

_kill_rank = partial(killed.killed_training, start=killed.two_ranks)
_kill_launch = partial(killed.killed_training, start=killed.launched, kills=(1,))
_kill_one = partial(killed.killed_training, start=killed.one_process, several=False)
_before_one = partial(checkpoints.prepare, start=killed.one_process)
_before_two = partial(checkpoints.prepare, start=killed.two_ranks)
_damage_one, _damage_several = (partial(checkpoints.damaged, several=several) for several in (False, True))
_of_experiment = {"prepare": killed.experiment_prepared, "limit_s": 300}
_at_its_limits = {"prepare": pressure.prepare, "limit_s": 3600, "memory_gb": 1000.0, "alone": True}

ATTACKS = (
    Attack("kill-train", _kill_one, short=5, long=90, limit_s=120),
    Attack("kill-rank", _kill_rank, short=2, long=40, limit_s=120),
    Attack("kill-launch", _kill_launch, short=1, long=15, limit_s=300),
    Attack("kill-experiment", killed.killed_experiment, short=1, long=15, **_of_experiment),
    Attack("kill-track", killed.killed_tracking, short=2, long=40, limit_s=120),
    Attack("fuzz-experiment", fuzzed.experiment, short=200, long=6000),
    Attack("fuzz-settings", fuzzed.settings, short=200, long=6000),
    Attack("fuzz-calls", fuzzed.arguments, short=100, long=3000),
    Attack("fuzz-command", fuzzed.command, short=60, long=2400, limit_s=20),
    Attack("fuzz-data", fuzzed.data, short=120, long=4400),
    Attack("fuzz-record", fuzzed.damaged_record, short=200, long=6000),
    Attack("fuzz-collect", fuzzed.collected, short=50, long=2200, prepare=fuzzed.prepare_records),
    Attack("damage-one", _damage_one, short=40, long=1000, prepare=_before_one, limit_s=30),
    Attack("damage-several", _damage_several, short=25, long=500, prepare=_before_two, limit_s=60),
    Attack("programs", trained.trained, short=1, long=400, limit_s=600),
    Attack("fuzz-guided", guided.guided, short=0, long=35, limit_s=600, memory_gb=2.0, needs="atheris"),
    Attack("pressure", pressure.pressed, short=0, long=10, **_at_its_limits),
)
