"""What an experiment is, as a checked value: one file ``experiments/NAME.yaml`` says which runs there are.

The runs are networks x data sets x partitions x strategies x optimizers x seeds; the sequential baseline, without a
pipeline, is always among them. A run's settings are those under ``settings``, then those of its optimizer, its network
and its data set; the later ones win. ``layerpipe2 train --help`` explains every setting.

A file that is ``like`` another one takes from it what it doesn't give itself: of the tables of settings and of
``report`` each entry, of everything else the whole value. Only where records and tables lie, and whether the
experiment is published, is never taken from another file.
"""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, create_model, model_validator

import experiments.field.rows
import experiments.recall.rows  # noqa: F401, the names of both are strategies, those of the field optimizers too
from experiments.names import HERE, path_of
from layerpipe2.errors import LARGEST, UserError, did_you_mean, plain_name, shown
from layerpipe2.lab.data import DATASETS, TEXTS
from layerpipe2.lab.judging.designs import LATEST, SEQUENTIAL, STASH
from layerpipe2.lab.judging.report import Report
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Checked, Positive, Several, checked, one_of
from layerpipe2.lab.runs.yaml_file import read_yaml
from layerpipe2.lab.tuning import MOST_JOBS
from layerpipe2.lab.tuning.settings import LISTED, POINTWISE, PRUNERS, SAMPLERS, check_grid
from layerpipe2.lab.tuning.space import Space
from layerpipe2.strategies import make_strategy

SWEPT = ("dataset", "network", "group_size", "strategy", "seed", "stash_epochs")
"""RunSettings that no section gives: the cells and seeds of an experiment do; the last is for single runs."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Network = Annotated[str, *one_of(NETWORKS)]
Dataset = Annotated[str, *one_of(DATASETS)]


Strategy = Annotated[str, AfterValidator(lambda name: (make_strategy(name), name)[1])]
_SETTINGS: dict[str, Any] = {
    name: (field.annotation, field) for name, field in RunConfig.model_fields.items() if name not in SWEPT
}


class RunSettings(create_model("Fields", __base__=Checked, **_SETTINGS)):  # type: ignore[misc]
    """Some of the settings of runs; the others have their defaults."""

    @property
    def given(self) -> dict[str, Any]:
        """Return the settings that the file gives."""
        return {name: getattr(self, name) for name in self.model_fields_set if name in _SETTINGS}


class Tuning(Checked):
    """Studies that choose settings by validation data, at the end of runs with a seed of their own.

    Each has the same ``space`` and number of ``trials`` (:mod:`layerpipe2.lab.tuning`). There is one for every
    strategy, at the largest number of stages, whose choice holds for all.

    Attributes:
        epochs: of these runs, if not those of the final ones.
        seeds: of the runs; several with a grid alone, whose points are compared by their means.
        trials: runs with one seed; of a grid all its points.
        rows: with the sampler ``listed``, strategies that have a number of their own -> their names with the number of
            each trial. So they have as many trials as the others, of a rate and a number each.
        moves: how often the range is moved, and the study done again, while the best value lies at an end of it.
    """

    epochs: Count | None = None
    seeds: Several[Seed]
    space: Annotated[dict[str, str], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1, le=1000)]
    sampler: Annotated[str, *one_of(SAMPLERS)] = "tpe"
    pruner: Annotated[str, *one_of(PRUNERS)] = "median"
    moves: Annotated[int, Field(ge=0, le=10)] = 0
    rows: dict[str, Several[Strategy]] = Field({})

    @model_validator(mode="after")
    def _fit(self) -> Self:
        space = Space.of(self.space, RunConfig())
        if self.sampler in POINTWISE:
            check_grid(space, self.trials, self.sampler)
        elif len(self.seeds) > 1:
            what = f"seeds has {len(self.seeds)}, but only a grid has the same points with each"
            raise UserError(f"{what}; give one seed, or sampler: {POINTWISE[0]}")
        for name, numbered in self.rows.items():
            if self.sampler != LISTED or len(numbered) != self.trials:
                raise UserError(f"rows.{name} has {len(numbered)} names; give sampler: {LISTED}, and a name per trial")
        return self

    def space_of(self, strategy: str) -> dict[str, str]:
        """The space of a strategy's studies, with its own number if it has one."""
        numbered = self.rows.get(strategy)
        return self.space | ({"strategy": f"choice:{','.join(numbered)}"} if numbered else {})


_OWN = ("records", "tables", "published", "times_apart")
_MOST_RUNS = 20_000
_PLACEHOLDERS = ("network", "dataset", "optimizer", "group", "stages", "strategy")


class Experiment(Checked):
    """One experiment.

    Attributes:
        group_sizes, stages: how networks are cut, either in units per stage or in numbers of stages.
        other_seeds: of the partitions that are not a network's deepest; None: the same seeds.
        common_seeds: with a space, seeds of further runs of the deepest partitions, in which all have the settings that
            were chosen for stash.
        common_rates: of these runs, network -> a learning rate that is given; stash has runs with it as well then, and
            networks that aren't named have no such runs.
        control_seeds: further seeds of the deepest partitions, with their own rates, with stash and with the latest
            weights: whether a history is needed at all can take more runs than what each average is worth.
        probe_seeds: of the runs that measure how well weights are reconstructed, which takes several times as long;
            None: all.
        tuning: None if every optimizer's learning rate is one of its settings.
        jobs: processes side by side; changes no result.
        front: if given, so many mitigations of the field at most have final runs, beside all other strategies: those
            with the best mean validation accuracies in the search, over all networks.
        published: whether its tables are committed (those of a larger experiment with its records), and shown by
            ``make reproduce`` and the README.
        times_apart: whether commits and times lie in a folder ``times`` beside ``runs``, so that the files of two runs
            which give the same are equal.
        records, tables: folders below the present one; ``{name}`` stands for the experiment's name.
        cell: what runs that differ in their seeds alone are called in file names, from the placeholders ``{network}``,
            ``{dataset}``, ``{optimizer}``, ``{group}`` (size; 'sequential'), ``{stages}`` and ``{strategy}``.
    """

    name: str
    networks: Several[Network]
    datasets: Several[Dataset]
    group_sizes: Several[Count] | None = None
    stages: Several[Annotated[int, Field(ge=2, le=LARGEST)]] | None = None
    strategies: Several[str]
    optimizers: Several[str]
    seeds: Several[Seed]
    other_seeds: Several[Seed] | None = None
    common_seeds: Several[Seed] | None = None
    common_rates: dict[Network, Positive] = Field({})
    control_seeds: Several[Seed] | None = None
    probe_seeds: Several[Seed] | None = None
    settings: RunSettings = RunSettings()
    network_settings: dict[Network, RunSettings] = Field({})
    dataset_settings: dict[Dataset, RunSettings] = Field({})
    optimizer_settings: dict[str, RunSettings]
    tuning: Tuning | None = None
    report: Report
    jobs: Annotated[int, Field(ge=1, le=MOST_JOBS)]
    front: Count | None = None
    published: bool = False
    times_apart: bool = False
    records: str = "results/evidence/{name}"
    tables: str = "results/evidence/{name}/tables"
    cell: str = "{optimizer}-{stages}-{strategy}"

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.group_sizes is None) == (self.stages is None):
            raise UserError("group_sizes and stages are two ways to cut a network; give one of them")
        self._check_rows()
        if STASH not in self.strategies:
            raise UserError(f"strategies lacks '{STASH}', which the others are compared with; add it")
        if self.control_seeds and LATEST not in self.strategies:
            raise UserError(f"control_seeds are those of stash and '{LATEST}', which strategies lacks; add it")
        if SEQUENTIAL in self.strategies:
            raise UserError(f"strategies has '{SEQUENTIAL}', which is always there and has one stage; leave it out")
        for name in self.optimizers:
            if name not in self.optimizer_settings:
                raise UserError(f"optimizer_settings has no '{name}'; {did_you_mean(name, self.optimizer_settings)}")
        if self.tuning is not None:
            self._check_tuning(self.tuning)
        self._check_names()
        self._check_text()
        if (runs := self._count_runs()) > _MOST_RUNS:
            raise UserError(f"this is {runs:,d} runs; give shorter lists, for at most {_MOST_RUNS:,d}")
        return self

    def _check_rows(self) -> None:
        for i, name in enumerate(self.strategies):
            try:
                make_strategy(self.provisional(name))
            except UserError as error:
                raise UserError(f"strategies.{i}: {error}") from None
        if self.front and self.tuning is None:
            raise UserError("front needs a search, by which it is chosen; give tuning, or leave it out")

    def provisional(self, strategy: str) -> str:
        """The name that a strategy has in runs until its number is chosen."""
        return self.tuning.rows.get(strategy, [strategy])[0] if self.tuning else strategy

    def _count_runs(self) -> int:
        cuts = len(self.group_sizes or self.stages or ()) * len(self.strategies) + 1
        pipelines = len(self.networks) * len(self.datasets) * len(self.optimizers)
        seeds = len(self.seeds) + len(self.common_seeds or ())
        return pipelines * (cuts * seeds + 2 * len(self.control_seeds or ()))

    def _check_tuning(self, tuning: Tuning) -> None:
        if len(self.optimizers) > 1:
            raise UserError(
                "optimizers has several, but a tuned experiment has one; write a file for each, `like` this one"
            )
        for name in tuning.space:
            if name in (*SWEPT, "max_steps", "optimizer", "momentum", "convention", "delays"):
                raise UserError(f"tuning.space has {name}, in which cells differ; leave it out")
        for seed in set(tuning.seeds) & set(self.all_seeds):
            raise UserError(f"tuning.seeds has {seed}, the seed of final runs; give another")
        if self.report.least_share is not None and len(tuning.seeds) < 2:
            raise UserError("report.least_share needs margins from the search; give tuning.seeds two or more")
        tables = ("network_settings", "dataset_settings", "optimizer_settings")
        found = {f"{table}.{name}": entry for table in tables for name, entry in getattr(self, table).items()}
        for where, settings in ({"settings": self.settings} | found).items():
            for name in tuning.space:
                if name in settings.given:
                    raise UserError(f"{where}.{name} is given, but {name} is tuned; leave out one of them")

    def _check_text(self) -> None:
        """Its classes are not equally frequent, so guessing is right more often than once in their number."""
        texts = [name for name in self.datasets if name in TEXTS]
        if texts and not self.report.judges_losses:
            raise UserError(f"datasets has {texts[0]}, whose loss is judged; give report.equivalence_margin_nats")

    def _check_names(self) -> None:
        space = {} if self.tuning is None else self.tuning.space
        if self.common_seeds and not space:
            raise UserError("common_seeds needs a tuning, from which stash has its settings; give both or neither")
        for network in self.common_rates:
            if not self.common_seeds or set(space) != {"lr"} or network not in self.networks:
                what = f"common_rates has {network}; give common_seeds, a tuning.space of lr alone"
                raise UserError(f"{what}, and networks of the experiment")
        plain_name(self.name, "name")
        for optimizer in self.optimizers:
            plain_name(optimizer, "optimizer")
        for key, placeholders in (("cell", _PLACEHOLDERS), ("records", ("name",)), ("tables", ("name",))):
            _check_path(key, getattr(self, key), placeholders)

    @property
    def all_seeds(self) -> list[int]:
        """List the seeds of final runs, each once, in their order."""
        more = (self.other_seeds, self.common_seeds, self.control_seeds)
        return list(dict.fromkeys([*self.seeds, *(seed for seeds in more for seed in seeds or ())]))

    def settings_of(self, network: str, dataset: str, optimizer: str) -> dict[str, Any]:
        """What the runs of a network on a data set with an optimizer share."""
        chosen = ((self.network_settings, network), (self.dataset_settings, dataset))
        parts = [self.settings, self.optimizer_settings[optimizer], *(t[key] for t, key in chosen if key in t)]
        given = {name: value for part in parts for name, value in part.given.items()}
        return given | {"network": network, "dataset": dataset}


def _check_path(key: str, text: str, placeholders: tuple[str, ...]) -> None:
    """Refuse a path that leads out of its folder, or has placeholders of another name or form than ``{name}``."""
    try:
        fields = [(field, form) for _, field, *form in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise UserError(f"{key} is {shown(text)} ({error}); write placeholders as in {{{placeholders[0]}}}") from None
    for field, form in fields:
        if field not in placeholders:
            raise UserError(f"{key} has the placeholder {shown(field)}; {did_you_mean(field, placeholders)}")
        if any(form):
            raise UserError(f"{key} is {shown(text)}; write the placeholder as {{{field}}} and nothing more")
    for part in text.format(**dict.fromkeys(placeholders, "x")).split("/"):
        plain_name(part, f"part of {key} {shown(text)}")


def read_experiment(name: str) -> Experiment:
    """The experiment of a name, or in a file of any place whose name ends in ``.yaml``.

    Raises:
        UserError: if there is none; else naming file, key and value, and what is allowed.
    """
    path = path_of(name)
    content = {key: value for key, value in _content(path).items() if key != "like"}
    return checked(Experiment, {"name": path.stem} | content, path.name)


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    content = read_yaml(path)
    if "like" not in content:
        return content
    like = content["like"]
    named = isinstance(like, str) and plain_name(like, f"{path.name}: like")
    places = (folder / f"{like}.yaml" for folder in (path.parent, HERE) if named)
    other = next((place for place in places if place.is_file()), path)
    if other in (*above, path):
        raise UserError(f"{path.name}: like is {shown(like)}; give the name of another file, such as evidence-mlp")
    inherited = {key: value for key, value in _content(other, (*above, path)).items() if key not in _OWN}
    return inherited | {key: _merged(key, inherited.get(key), value) for key, value in content.items()}


def _merged(key: str, inherited: Any, own: Any) -> Any:
    tables = key == "report" or key.endswith("settings")
    both = isinstance(inherited, Mapping) and isinstance(own, Mapping)
    return {**inherited, **own} if tables and both else own
