"""The predictor of a network: its units timed in a process of their own, like every variant."""

from experiments.pipelines.measure import measure_layers
from experiments.pipelines.processes import run_ranks
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.planning import StageWork
from layerpipe2.planning.predict import Predictor


def predictor(config: RunConfig, processes: int, repeats: int, strategy: str | None = "") -> Predictor:
    """Predicts times of ``config`` on so many processes; ``repeats`` steps of each unit are timed."""

    def profile(size: int, update: bool, strategy: str, split: bool, threads: int) -> tuple[StageWork, ...]:
        wanted = (size, update, strategy, split, threads)
        found: tuple[StageWork, ...] = run_ranks(measure_layers, 1, config, wanted, repeats)[0]
        return found

    return Predictor(profile, config.batch_size, processes, strategy)
