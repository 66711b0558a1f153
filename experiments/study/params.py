"""The study that ``params.yaml`` describes: which runs each training stage of the DVC pipeline does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from layerpipe2.errors import UserError
from layerpipe2.history import make_history
from layerpipe2.networks import NETWORKS
from layerpipe2.runs.config import Rule, RunConfig, check, check_keys, rules

SEQUENTIAL = "sequential"

_SECTIONS = ("data", "study", "optimizer", "profiles", "nets", "report", "execution")
_LISTS = ("networks", "groups", "strategies", "seeds")
# Where the settings stand that are no run's own business; every other one may stand in any of the sections above.
_PLACES = {"dataset": "data", "probe_every": "study", "device": "execution"}
_SWEPT = ("network", "group_size", "strategy", "seed")
_REPORT = {
    "equivalence_margin_points": Rule("report", "margin", "float", low=0, open_low=True, high=100),
    "significance_level": Rule("report", "level", "float", low=0, open_low=True, high=0.5, open_high=True),
}
_JOBS = Rule("execution", "processes side by side", "int", low=1)


@dataclass(frozen=True)
class Study:
    """Checked content of ``params.yaml``, but for the section ``report``, which no run sees.

    Attributes:
        networks: network names.
        groups: group sizes, and ``sequential`` for the baseline without a pipeline.
        strategies: strategies of the pipelined runs.
        seeds: one run of everything per seed.
        settings: network -> settings of its runs. Where two sections give one, the later of ``data``, ``optimizer``,
            ``nets.<network>`` and ``profiles.<data set>`` wins.
        jobs: training processes side by side; changes no result.
    """

    networks: tuple[str, ...]
    groups: tuple[int | str, ...]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: dict[str, dict[str, Any]]
    jobs: int

    def runs(self, network: str, group: int | str) -> list[RunConfig]:
        """The runs of one training stage: strategies x seeds; the baseline has one strategy.

        Raises:
            UserError: if the network or the group isn't in the study, or settings don't go together.
        """
        for name, value, known in (("network", network, self.networks), ("group", group, self.groups)):
            if value not in known:
                raise UserError(f"study has no {name} {value!r}; params.yaml lists {', '.join(map(str, known))}")
        baseline = group == SEQUENTIAL
        fixed = self.settings[network] | {"network": network} | ({} if baseline else {"group_size": group})
        strategies = (SEQUENTIAL,) if baseline else self.strategies
        return [RunConfig(**fixed, strategy=name, seed=seed) for name in strategies for seed in self.seeds]

    @classmethod
    def from_file(cls, path: Path) -> Study:
        """Read and check ``params.yaml``.

        Raises:
            UserError: naming the file, the key, the value and what is allowed.
        """
        file = ParameterFile(path)
        file.check_rest()
        lists = {key: file.list_of("study", key) for key in _LISTS}
        placed = {name: file.value(section, name, rules()[name]) for name, section in _PLACES.items()}
        jobs = file.value("execution", "jobs", _JOBS)
        file.check_strategies(lists["strategies"])
        common = placed | file.fields("data") | file.fields("optimizer")
        profile = file.fields("profiles", placed["dataset"])
        settings = {network: common | file.fields("nets", network) | profile for network in lists["networks"]}
        return cls(**lists, settings=settings, jobs=jobs)


class ParameterFile:
    """Access to the sections of a YAML file; every error names file, key and value."""

    def __init__(self, path: Path, sections: Sequence[str] = _SECTIONS) -> None:
        self.name = path.name
        try:
            self.content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror}); run this in the repository's root") from None
        except yaml.YAMLError as error:
            raise UserError(f"{path} isn't valid YAML ({' '.join(str(error).split())})") from None
        check_keys(self.section(), sections, self.name)

    def section(self, *keys: str) -> dict[str, Any]:
        """The mapping at ``keys``, from the top of the file."""
        found = self.content
        for depth, key in enumerate(keys):
            if key not in found:
                where = ".".join(keys[:depth]) or "the file"
                raise UserError(f"{self.name}: {where} has no '{key}'; known: {', '.join(map(str, found))}")
            found = found[key]
        if not isinstance(found, dict):
            raise UserError(f"{self.name}: {'.'.join(keys) or 'the file'} is {found!r}; give a mapping of keys")
        return found

    def value(self, section: str, key: str, rule: Rule) -> Any:
        """One required value."""
        value = self.section(section).get(key)
        check(f"{self.name}: {section}.{key}", value, rule)
        return value

    def list_of(self, section: str, key: str) -> tuple[Any, ...]:
        """A list of distinct values, checked against the setting that it sweeps."""
        where, values = f"{self.name}: {section}.{key}", self.section(section).get(key)
        if not isinstance(values, list) or not values or len(set(map(str, values))) < len(values):
            raise UserError(f"{where} is {values!r}; give a list of distinct values")
        swept = rules()[dict(zip(_LISTS, _SWEPT, strict=True))[key]]
        for value in values:
            if not (key == "groups" and value == SEQUENTIAL):
                check(f"{where}, entry", value, swept)
        return tuple(values)

    def check_strategies(self, names: Sequence[str]) -> None:
        """Refuse strategies that don't exist, before anything is trained."""
        for name in names:
            try:
                make_history(name)
            except UserError as error:
                raise UserError(f"{self.name}: study.strategies: {error}") from None

    def check_rest(self) -> None:
        """Refuse unknown keys in the sections that aren't settings of runs, and bad values in ``report``."""
        check_keys(self.section("study"), (*_LISTS, "probe_every"), f"{self.name}: study")
        check_keys(self.section("execution"), ("jobs", "device"), f"{self.name}: execution")
        check_keys(self.section("nets"), NETWORKS, f"{self.name}: nets")
        check_keys(self.section("report"), _REPORT, f"{self.name}: report")
        for name, rule in _REPORT.items():
            self.value("report", name, rule)

    def fields(self, *keys: str) -> dict[str, Any]:
        """Settings of runs in the section at ``keys``."""
        where = ".".join(keys)
        found = {key: value for key, value in self.section(*keys).items() if _PLACES.get(key) != keys[0]}
        known = [name for name in rules() if name not in (*_SWEPT, *_PLACES)]
        check_keys(found, known, f"{self.name}: {where}")
        for key, value in found.items():
            check(f"{self.name}: {where}.{key}", value, rules()[key])
        return found
