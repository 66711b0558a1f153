"""What a campaign does, as a checked value: one profile of ``experiments/full_scale/params.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.study.params import SEQUENTIAL, ParameterFile
from layerpipe2.errors import UserError
from layerpipe2.history import make_history
from layerpipe2.runs.config import Rule, check, check_keys, rules

_SECTIONS = ("settings", "optimizers", "report", "published", "profiles")
_PROFILE = ("settings", "optimizers", "stages", "strategies", "seeds", "tuning", "warm_up", "jobs")
_SWEPT = ("group_size", "strategy", "seed", "lr", "stash_epochs", "max_steps")
_RULES = {
    "stages": Rule("", "", "int", low=2),
    "strategies": Rule("", "", "str"),
    "seeds": rules()["seed"],
    "rates": rules()["lr"],
    "jobs": Rule("", "", "int", low=1),
    "stash_epochs": Rule("", "", "float", low=0, open_low=True),
}


@dataclass(frozen=True)
class Optimizer:
    """Settings of an optimizer, and the learning rates that are tried: as many for every strategy."""

    settings: Mapping[str, Any]
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Profile:
    """One campaign.

    Attributes:
        name: name in the file.
        settings: those that all runs share; an optimizer's own come on top.
        optimizers: by name.
        stages: numbers of pipeline stages; one stage, the sequential baseline, is always there.
        strategies: of the pipelined runs.
        seeds: of the final runs; one run of everything per seed.
        tuning: ``epochs`` of a tuning run and its ``seed``, which no final run may have.
        warm_up: ``stages``, ``strategies`` and ``stash_epochs`` of the ablation, or empty: these runs use exact weights
            for so many epochs, and the learning rate of the strategy without warm-up.
        jobs: processes side by side on this machine; changes no result.
    """

    name: str
    settings: Mapping[str, Any]
    optimizers: Mapping[str, Optimizer]
    stages: tuple[int, ...]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    tuning: Mapping[str, int]
    warm_up: Mapping[str, Any]
    jobs: int

    @classmethod
    def from_file(cls, path: Path, name: str) -> Profile:
        """Read and check one profile.

        Raises:
            UserError: naming the file, the key, the value and what is allowed.
        """
        file = ParameterFile(path, _SECTIONS)
        where = f"{file.name}: profiles.{name}"
        section = file.section("profiles", name)
        check_keys(section, _PROFILE, where)
        missing = [key for key in _PROFILE if key not in section]
        if missing:
            raise UserError(f"{where} has no '{missing[0]}'; give all of {', '.join(_PROFILE)}")
        own = file.section("profiles", name, "settings")
        settings = _settings(file.section("settings"), f"{file.name}: settings") | _settings(own, f"{where}.settings")
        lists = {key: _values(section[key], f"{where}.{key}", key) for key in ("stages", "strategies", "seeds")}
        _check_strategies(lists["strategies"], f"{where}.strategies")
        check(f"{where}.jobs", section["jobs"], _RULES["jobs"])
        chosen = section["optimizers"]
        if not isinstance(chosen, list) or not chosen:
            raise UserError(f"{where}.optimizers is {chosen!r}; give a list of names of the section 'optimizers'")
        optimizers = {key: _optimizer(file, key) for key in chosen}
        tuning = _tuning(file.section("profiles", name, "tuning"), f"{where}.tuning", lists["seeds"])
        warm_up = _warm_up(file.section("profiles", name, "warm_up"), f"{where}.warm_up", lists)
        return cls(name, settings, optimizers, **lists, tuning=tuning, warm_up=warm_up, jobs=section["jobs"])


def _settings(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of runs, each within its rule."""
    known = {name: rule for name, rule in rules().items() if name not in _SWEPT}
    check_keys(given, known, where)
    for name, value in given.items():
        check(f"{where}.{name}", value, known[name])
    return dict(given)


def _values(given: Any, where: str, rule: str) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given or len(set(map(str, given))) < len(given):
        raise UserError(f"{where} is {given!r}; give a list of distinct values")
    for value in given:
        check(f"{where}, entry", value, _RULES[rule])
    return tuple(given)


def _check_strategies(given: tuple[str, ...], where: str) -> None:
    for strategy in given:
        make_history(strategy)
    for needed in ("stash", "latest"):
        if needed not in given:
            raise UserError(f"{where} lacks '{needed}', which the others are compared with; add it")
    if SEQUENTIAL in given:
        raise UserError(f"{where} has '{SEQUENTIAL}', which is always there and has one stage; leave it out")


def _optimizer(file: ParameterFile, name: str) -> Optimizer:
    section = dict(file.section("optimizers", name))
    where = f"{file.name}: optimizers.{name}"
    rates = _values(section.pop("rates", None), f"{where}.rates", "rates")
    return Optimizer(_settings(section, where), rates)


def _tuning(section: Mapping[str, Any], where: str, seeds: tuple[int, ...]) -> Mapping[str, int]:
    check_keys(section, ("epochs", "seed"), where)
    for key in ("epochs", "seed"):
        check(f"{where}.{key}", section.get(key), rules()[key])
    if section["seed"] in seeds:
        raise UserError(f"{where}.seed is {section['seed']}, the seed of final runs; give another")
    return dict(section)


def _warm_up(section: Mapping[str, Any], where: str, lists: Mapping[str, tuple[Any, ...]]) -> Mapping[str, Any]:
    if not section:
        return {}
    check_keys(section, ("stages", "strategies", "stash_epochs"), where)
    check(f"{where}.stash_epochs", section.get("stash_epochs"), _RULES["stash_epochs"])
    for key in ("stages", "strategies"):
        for value in _values(section.get(key), f"{where}.{key}", key):
            if value not in lists[key] or value == "stash":
                raise UserError(f"{where}.{key} has {value!r}; give some of the profile's own, but not stash")
    return dict(section)
