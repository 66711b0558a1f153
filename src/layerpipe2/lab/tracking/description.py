"""What a run is called in MLflow, and by which parameters and tags it is found; all of it is known before it starts."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerpipe2.lab.looks import look
from layerpipe2.strategies import find_strategy

FINAL, TUNE, TRAIN = "final", "tune", "train"
"""Phases of runs: those of an experiment's results, those that choose its learning rates, single ones."""
CELL, SEED, STUDY, TRIAL, SUMMARY = "cell", "seed", "study", "trial", "summary"
"""Kinds of runs in MLflow, the tag ``kind``: a cell is above a run per seed, a study above a trial per setting."""
NOTE = "mlflow.note.content"
_MACHINE = ("data_root", "device", "threads")
_PROBES = "probe_every"
"""It measures along a run and changes nothing else of it: some seeds of a cell have it, others don't."""
_NAMED = ("network", "dataset", "optimizer")
_CELL_NOTE = (
    "`final/` and `best/` are means over the seeds that finished, `sd/` their standard deviations; `won_back` is "
    "(this - latest) / (stash - latest) in per cent, the report's share won back: of mean test accuracies, or of "
    "losses where the experiment judges these, over the seeds that all three have. A run that diverged counts as "
    "guessing. It is there once the experiment is collected, where the latest weights are shown to lose more than its "
    "margin."
)


@dataclass(frozen=True)
class RunDescription:
    """A run, before it starts.

    Attributes:
        experiment: as in ``digits``.
        phase: ``FINAL``, ``TUNE`` or ``TRAIN``.
        config: all settings.
        delays: one per stage, in updates.
        differing: the settings in which runs of the experiment differ; only they are parameters.
        rate: what its name says of the choice of the learning rate, as in ``common``; empty: nothing.
        objective: what a trial is judged by, ``accuracy`` or ``loss`` of the validation part; empty: it isn't known.
        page: address of the page that shows it, from the project's folder; empty: there is none.
    """

    experiment: str
    phase: str
    config: Mapping[str, Any]
    delays: Sequence[int]
    differing: Collection[str]
    rate: str = ""
    objective: str = ""
    page: str = ""

    @property
    def strategy(self) -> str:
        """The strategy's name in tables, with ``-warm`` behind it after epochs with exact weights."""
        return str(self.config["strategy"]) + ("-warm" if self.config["stash_epochs"] else "")

    @property
    def cell_key(self) -> str:
        """Digest of all settings but the seed and the probes, in tuning also but the learning rate."""
        apart = {"seed", _PROBES, *_MACHINE, *(("lr",) if self.phase == TUNE else ())}
        return digest({name: value for name, value in self.config.items() if name not in apart})

    @property
    def cell_name(self) -> str:
        """Name a cell, as in ``ema-window x9 mlp``: the strategy, the number of stages, and what else differs."""
        return self._name("tuning" if self.phase == TUNE else "")

    @property
    def name(self) -> str:
        """Name a run, as in ``ema-window x9 s0 mlp``; trials have their rate there. MLflow shows 20 characters."""
        return self._name(f"{self.config['lr']:g}" if self.phase == TUNE else f"s{self.config['seed']}")

    @property
    def kinds(self) -> tuple[str, str]:
        """The tag ``kind`` of its cell, and its own."""
        return (STUDY, TRIAL) if self.phase == TUNE else (CELL, SEED)

    def params(self, *, cell: bool = False) -> dict[str, str]:
        """What the run's page, table and comparison show as its parameters, or those of its cell."""
        without = {"stash_epochs"} | ({"lr" if self.phase == TUNE else "seed", _PROBES} if cell else set())
        shown = {name: str(self.config[name]) for name in sorted({*self.differing, "strategy"} - without)}
        return shown | {"strategy": self.strategy, "stages": str(len(self.delays)), "cell": self.cell_name}

    def tags(self, *, cell: bool = False) -> dict[str, str]:
        """What the run, or its cell, is filtered and drawn by."""
        above, below = self.kinds
        return {
            "kind": above if cell else below,
            "strategy": self.strategy,
            "stages": str(len(self.delays)),
            "delays": " ".join(map(str, self.delays)),
            "delay_law": str(self.config["convention"]) if len(self.delays) > 1 else "none",
            "phase": self.phase,
            "experiment": self.experiment,
            **{name: str(self.config[name]) for name in _NAMED},
            NOTE: "\n\n".join(filter(None, (self._heading(), self._note(cell), shown_on(self.page)))),
            **({"page": self.page} if self.page else {}),
            "mlflow.runColor": look(self.strategy).colour,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "layerpipe2 train" if self.phase == TRAIN else "experiments.run",
        }

    def _name(self, own: str) -> str:
        config = self.config
        words = [f"{self.strategy} x{len(self.delays)}", own, self.rate]
        words += [str(config[name]) for name in _NAMED if name in self.differing]
        if config["optimizer"] == "sgd" and config["momentum"] and "momentum" in self.differing:
            words.append(f"momentum {config['momentum']:g}")
        return " ".join(filter(None, words))

    def _heading(self) -> str:
        config, count = self.config, len(self.delays)
        what = f"**{self.strategy}** ({find_strategy(self.strategy).description}): "
        what += f"{config['network']} on {config['dataset']}, {count} stage{'' if count == 1 else 's'}"
        return f"{what}, delays {' '.join(map(str, self.delays))} updates."

    def _note(self, cell: bool) -> str:
        if not cell:
            return "All settings and numbers: the artifact `record.json`. Accuracies are in per cent."
        if self.phase != TUNE:
            return _CELL_NOTE
        if not self.objective:
            return "Metrics are there once the experiment is collected."
        return f"Metrics are those of the trial with the best validation {self.objective} at its end."


def shown_on(page: str) -> str:
    """Say where the site shows a run; nothing if there is no page."""
    return f"Shown on `{page}` of this project's folder, which `make site` builds." if page else ""


def differing(configs: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The settings that aren't the same in all runs."""
    first, *others = configs
    return frozenset(name for name in first if any(other.get(name) != first[name] for other in others))


def digest(value: Any) -> str:
    """Return a digest of plain values: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
