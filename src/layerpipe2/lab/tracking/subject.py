"""What a run is called in MLflow, and by which parameters and tags it is found; all known before it starts."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerpipe2.lab.data import describe
from layerpipe2.lab.looks import look
from layerpipe2.lab.tracking.entry import (
    CELL,
    CELLS,
    KEY,
    NOTE,
    SEEDS,
    STUDIES,
    TRAIN,
    TRIALS,
    TUNE,
    Entry,
    Page,
    digest,
)
from layerpipe2.strategies import find_strategy

Config = Mapping[str, Any]

_MACHINE = ("data_root", "device", "threads")
_PROBES = "probe_every"
"""It measures along a run and changes nothing else of it: some seeds of a cell have it, others don't."""
_NAMED = ("network", "dataset", "optimizer")


@dataclass(frozen=True)
class Subject:
    """A run, before it starts.

    Attributes:
        experiment: as in ``digits``.
        phase: ``FINAL``, ``TUNE`` or ``TRAIN``.
        key: that of its record, which a rerun has, too; None: its settings.
        config: all settings.
        delays: one per stage, in updates.
        differing: the settings in which runs of the experiment differ; only they are parameters.
        rate: what its name says of the choice of the learning rate, as in ``common``; empty: nothing.
        objective: what a trial is judged by, ``accuracy`` or ``loss`` of the validation part; empty: it isn't known.
    """

    experiment: str
    phase: str
    key: str | None
    config: Config
    delays: Sequence[int]
    differing: Collection[str]
    rate: str = ""
    objective: str = ""

    @property
    def strategy(self) -> str:
        """Its name in tables: with ``-warm`` behind it after epochs with exact weights."""
        return str(self.config["strategy"]) + ("-warm" if self.config["stash_epochs"] else "")

    @property
    def cell(self) -> str:
        """Digest of all settings but the seed and the probes, in tuning also but the learning rate."""
        return self._digest(("seed", _PROBES, *(("lr",) if self.phase == TUNE else ())))

    @property
    def cell_name(self) -> str:
        """As in ``ema-window x9 mlp``: the strategy, the number of stages, and what else differs."""
        return " ".join([self._start, *(["tuning"] if self.phase == TUNE else []), *self._others])

    @property
    def name(self) -> str:
        """As in ``ema-window x9 s0 mlp``; trials have their rate there. MLflow shows the first 20 characters."""
        own = f"{self.config['lr']:g}" if self.phase == TUNE else f"s{self.config['seed']}"
        return " ".join([self._start, own, *self._others])

    @property
    def colour(self) -> str:
        """The strategy's in all figures."""
        return look(self.strategy).colour

    @property
    def entry(self) -> Entry:
        """What MLflow is given."""
        run = Page(self.name, self.params(), self.tags())
        cell = Page(self.cell_name, self.params(cell=True), self.tags(cell=True))
        return Entry(run, cell, _dataset(str(self.config["dataset"])))

    def params(self, *, cell: bool = False) -> dict[str, str]:
        """What the run's page, table and comparison show as its parameters, or those of its cell."""
        without = {"stash_epochs"} | ({"lr" if self.phase == TUNE else "seed", _PROBES} if cell else set())
        shown = {name: str(self.config[name]) for name in sorted({*self.differing, "strategy"} - without)}
        return shown | {"strategy": self.strategy, "stages": str(len(self.delays)), "cell": self.cell_name}

    def tags(self, *, cell: bool = False) -> dict[str, str]:
        """What the run, or its cell, is filtered and drawn by."""
        kinds = (STUDIES, TRIALS) if self.phase == TUNE else (CELLS, SEEDS)
        config = self.config
        return {
            CELL: self.cell,
            KEY: f"cell {self.cell}" if cell else self.key or f"{self.cell} s{config['seed']}",
            "kind": kinds[0 if cell else 1],
            "strategy": self.strategy,
            "stages": str(len(self.delays)),
            "delays": " ".join(map(str, self.delays)),
            "delay_law": str(config["convention"]) if len(self.delays) > 1 else "none",
            "phase": self.phase,
            "experiment": self.experiment,
            **{name: str(config[name]) for name in _NAMED},
            "current": "true",
            NOTE: self.note(cell=cell),
            "mlflow.runColor": self.colour,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": {TRAIN: "layerpipe2 train"}.get(self.phase, "experiments.run"),
        }

    def note(self, *, cell: bool = False) -> str:
        """The description on the run's page, in Markdown."""
        config, row = self.config, find_strategy(self.strategy)
        one = "" if len(self.delays) == 1 else "s"
        what = f"**{self.strategy}** ({row.description}): {config['network']} on {config['dataset']}"
        lines = [f"{what}, {len(self.delays)} stage{one}, delays {' '.join(map(str, self.delays))} updates."]
        if cell and self.phase == TUNE:
            told = f"those of the trial with the best validation {self.objective} at its end"
            lines.append(f"Metrics are {told if self.objective else 'there once the experiment is collected'}.")
        elif cell:
            lines.append(
                "`final/` and `best/` are means over the seeds that finished, `sd/` their standard deviations; "
                "`won_back` is (this - latest) / (stash - latest) in per cent, the report's share won back: of mean "
                "test accuracies, or of losses where the experiment judges these, over the seeds that all three have. "
                "A run that diverged counts as guessing. It is there once the experiment is collected, where the "
                "latest weights are shown to lose more than its margin."
            )
        else:
            lines.append("All settings and numbers: the artifact `record.json`. Accuracies are in per cent.")
        return "\n\n".join(lines)

    @property
    def _start(self) -> str:
        return f"{self.strategy} x{len(self.delays)}"

    @property
    def _others(self) -> list[str]:
        config, rate = self.config, [self.rate] if self.rate else []
        words = rate + [str(config[name]) for name in _NAMED if name in self.differing]
        heavy = config["optimizer"] == "sgd" and config["momentum"] and "momentum" in self.differing
        return [*words, f"momentum {config['momentum']:g}"] if heavy else words

    def _digest(self, without: Collection[str]) -> str:
        return digest({name: self.config[name] for name in self.config if name not in (*without, *_MACHINE)})


def differing(configs: Iterable[Config]) -> frozenset[str]:
    """The settings that aren't the same in all runs."""
    first, *others = configs
    return frozenset(name for name in first if any(other.get(name) != first[name] for other in others))


def _dataset(name: str) -> dict[str, str]:
    """The data set as MLflow shows it; its digest is that of what the published one looks like."""
    spec = describe(name)
    shape = {"input_shape": list(spec.input_shape), "num_classes": spec.num_classes}
    return {"name": name, "digest": digest([name, shape])[:8], "profile": json.dumps(shape)}
