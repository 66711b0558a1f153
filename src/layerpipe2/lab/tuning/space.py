"""What a tuner may choose: settings of a run, each with a range, as text in a file or on the command line.

====================================  ====================================================================
``lr: log:1e-4:1``                    a number, uniform in its logarithm
``momentum: uniform:0:0.99``          a number
``width: int:8:64``                   an integer (``int-log``: uniform in its logarithm)
``optimizer: choice:sgd,adamw``       one of these
``... if optimizer=sgd``              only where another setting has this value, which may be tuned itself
``gradient_clip_norm: choice:none,1`` ``none`` where a setting may be none
====================================  ====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, product
from typing import Any

from layerpipe2.errors import UserError, did_you_mean, plain, shown
from layerpipe2.lab.runs.config import RunConfig

Value = bool | int | float | str | None
_FIELDS: Mapping[str, Mapping[str, Any]] = RunConfig.model_json_schema()["properties"]
_FORMS = "log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, int-log:LOW:HIGH or choice:A,B,.."
_NUMBERS = {"log": float, "uniform": float, "int": int, "int-log": int}
_OTHER = {"seed", "dataset", "data_root", "device", "threads", "validation_fraction", "epochs", "max_steps"}
"""Settings that change what is compared, or where: a tuner has no business with them."""
EDGE = 0.05
"""A best value closer to an end than this share of its range says that the range was too narrow."""


@dataclass(frozen=True)
class Range:
    """The values that one setting may have.

    Attributes:
        low, high: the ends of a range of numbers.
        choices: otherwise, the values.
        when: setting and value without which this setting keeps its value.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()
    when: tuple[str, Value] | None = None

    @property
    def text(self) -> str:
        """As it is written in a file."""
        ends = ",".join(map(_word, self.choices)) if self.choices else f"{self.low:.12g}:{self.high:.12g}"
        return f"{self.kind}:{ends}" + (f" if {self.when[0]}={_word(self.when[1])}" if self.when else "")

    @property
    def logarithmic(self) -> bool:
        """Whether it is uniform in the logarithm."""
        return self.kind in ("log", "int-log")

    def applies(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is tuned in a run that has these settings so far."""
        return self.when is None or settings[self.when[0]] == self.when[1]

    def suggest(self, trial: Any) -> Value:
        """The value of an ``optuna.Trial``."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))  # type: ignore[no-any-return]
        draw = trial.suggest_int if _NUMBERS[self.kind] is int else trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.logarithmic)  # type: ignore[no-any-return]

    def place(self, value: Any) -> float | None:
        """Where a value lies between the ends: 0 at the lower one, 1 at the upper one; None of a choice."""
        if self.choices:
            return None
        scale = math.log if self.logarithmic else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def at(self, share: float) -> Value:
        """The value at a place between the ends, from 0 to below 1; a choice counts as so many equal parts."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        if self.logarithmic:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if _NUMBERS[self.kind] is int else float(value)

    def moved(self, value: Any) -> Range:
        """The range itself if a best ``value`` lies well within it; else as wide, its middle at the value.

        It stays within what the setting allows: a range that already ends there isn't moved, and towards a bound that
        the setting can't reach itself, such as momentum < 1, it goes half the way.
        """
        place = self.place(value)
        if place is None or EDGE <= place <= 1 - EDGE:
            return self
        if self.logarithmic:
            half = math.sqrt(self.high / self.low)
            low, high = value / half, value * half
        else:
            half = (self.high - self.low) / 2
            low, high = value - half, value + half
        bounds = _schema(self.name)
        if _NUMBERS[self.kind] is int:
            low, high = max(1, round(low)) if self.logarithmic else round(low), round(high)
        else:
            low, high = float(f"{low:.3g}"), float(f"{high:.3g}")
        low, high = max(low, bounds.get("minimum", low)), min(high, bounds.get("maximum", high))
        if low <= bounds.get("exclusiveMinimum", -math.inf):
            low = (self.low + bounds["exclusiveMinimum"]) / 2
        if high >= bounds.get("exclusiveMaximum", math.inf):
            high = (self.high + bounds["exclusiveMaximum"]) / 2
        wider = low < self.low if place < EDGE else high > self.high
        return replace(self, low=low, high=high) if wider else self


@dataclass(frozen=True)
class Space:
    """The ranges, in the order in which values are drawn: what a condition reads comes first."""

    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, texts: Mapping[str, Any], config: RunConfig) -> Space:
        """The space that ``setting -> text`` describes, for runs that otherwise have the settings of ``config``.

        Raises:
            UserError: on an unknown setting, a wrong form, or bounds out of the setting's range.
        """
        if not isinstance(texts, Mapping) or not texts:
            raise UserError(f"space is {shown(texts)}; give at least one setting and its range, as in lr=log:1e-4:1")
        read = [_read(name, text) for name, text in texts.items()]
        ranges = {one.name: one for one in read}
        for one in read:
            _check_condition(one, ranges, config)
        space = cls(tuple(sorted(read, key=lambda one: one.when is not None)))
        for settings in space.ends(config):
            try:
                config.copy_with(**settings)
            except UserError as error:
                raise UserError(f"space: {error}") from None
        return space

    @property
    def texts(self) -> dict[str, str]:
        """Setting -> its range as text."""
        return {one.name: one.text for one in self.ranges}

    def suggest(self, trial: Any, config: RunConfig) -> RunConfig:
        """The configuration of a trial."""
        settings = config.to_dict()
        for one in self.ranges:
            if one.applies(settings):
                settings[one.name] = one.suggest(trial)
        return RunConfig(**settings)

    def spread(self, number: int) -> dict[str, Value]:
        """Values of the first trials, from number 0: Halton's points, which leave no large hole even if few."""
        return {one.name: one.at(_halton(number + 1, base)) for one, base in zip(self.ranges, _primes(), strict=False)}

    def points(self, *, listed: bool = False) -> list[dict[str, Value]] | None:
        """All combinations of choices, the first setting's changing last; None where one has a range or a condition.

        Where ``listed``, the first choices of all settings, then the second ones, as far as each has one.
        """
        if any(one.when or not one.choices for one in self.ranges):
            return None
        names = [one.name for one in self.ranges]
        choices = [one.choices for one in self.ranges]
        found = zip(*choices, strict=False) if listed else product(*choices)
        return [dict(zip(names, values, strict=True)) for values in found]

    def outermost(self, best: Mapping[str, Any]) -> list[str]:
        """Settings whose best value is the smallest or the largest of several numbers: it may lie beyond them."""
        numbers = {one.name: one.choices for one in self.ranges if all(isinstance(c, float) for c in one.choices)}
        found = {name: [c for c in choices if isinstance(c, float)] for name, choices in numbers.items() if choices}
        return [name for name, values in found.items() if best.get(name) in (min(values), max(values))]

    def at_an_end(self, best: Mapping[str, Any]) -> dict[str, str]:
        """Setting -> which end of its range the best value lies at, of those that do and can be moved."""
        ranges = [one for one in self.ranges if one.name in best and one.moved(best[one.name]) != one]
        return {one.name: "lower" if (one.place(best[one.name]) or 0) < EDGE else "upper" for one in ranges}

    def moved(self, best: Mapping[str, Any]) -> Space:
        """The space to tune in again if a best value lies at an end of its range; itself if none does."""
        return Space(tuple(one.moved(best[one.name]) if one.name in best else one for one in self.ranges))

    def ends(self, config: RunConfig) -> Iterator[dict[str, Any]]:
        """For every end or choice of a range: changes of the configuration in which it occurs."""
        for one in self.ranges:
            condition = dict([one.when]) if one.when else {}
            for value in one.choices or (one.low, one.high):
                number = _NUMBERS.get(one.kind)
                yield condition | {one.name: number(value) if number else value}


def _read(name: str, text: Any) -> Range:
    if name not in _FIELDS:
        raise UserError(f"space has the unknown setting {shown(name)}; {did_you_mean(name, _FIELDS)}")
    if name in _OTHER or _kind(name) == "array":
        raise UserError(f"space has {name}, which can't be tuned; leave it out")
    form, _, condition = str(text).partition(" if ")
    kind, _, ends = form.strip().partition(":")
    when = _condition(name, condition) if condition else None
    if kind == "choice" and ends:
        choices = tuple(_value(name, word) for word in ends.split(","))
        if len(set(choices)) == len(choices) > 1:
            return Range(name, kind, choices=choices, when=when)
        raise UserError(f"space.{name} is {shown(text)}; give at least two different choices")
    number = _NUMBERS.get(kind)
    with suppress(ValueError):
        low, high = (float(plain(end)) for end in ends.split(":"))
        whole = number is not int or (low == int(low) and high == int(high))
        fits = {"integer": number is int, "number": True}.get(_kind(name), False)
        if number and fits and whole and low < high < math.inf and (low > 0 or "log" not in kind):
            return Range(name, kind, low, high, when=when)
    words = {"integer": "an integer", "number": "a number"}.get(_kind(name), "a name: only choice:A,B,.. is possible")
    raise UserError(
        f"space.{name} is {shown(text)}; give {_FORMS}, with LOW < HIGH (> 0 where it is log); {name} is {words}"
    )


def _check_condition(one: Range, ranges: Mapping[str, Range], config: RunConfig) -> None:
    """Refuse a condition that never holds, or on a setting that itself has one: then the order would matter."""
    if one.when is None:
        return
    name, value = one.when
    other = ranges.get(name)
    if other is not None and other.when is not None:
        raise UserError(f"space.{one.name} depends on {name}, which has a condition itself; leave one of them out")
    possible = other.choices or range(int(other.low), int(other.high) + 1) if other else (getattr(config, name),)
    if value not in possible or (other is not None and other.kind in ("log", "uniform")):
        raise UserError(f"space.{one.name} holds only if {name}={_word(value)}, which no trial has; tune {name}, too")


def _condition(name: str, text: str) -> tuple[str, Value]:
    other, equal, value = text.strip().partition("=")
    if not equal or other not in _FIELDS:
        raise UserError(f"space.{name} has the condition {shown(text)}; write `if SETTING=VALUE`, as in optimizer=sgd")
    return other, _value(other, value)


def _schema(name: str) -> Mapping[str, Any]:
    """Type and bounds of a setting, where it isn't none."""
    return dict(_FIELDS[name].get("anyOf", [_FIELDS[name]])[0])


def _kind(name: str) -> str:
    return str(_schema(name)["type"])


def _value(name: str, word: str) -> Value:
    """The value of a setting that a word stands for; the setting itself says later if it isn't allowed."""
    with suppress(ValueError):
        kind = _kind(name)
        if word == "none" and "anyOf" in _FIELDS[name]:
            return None
        if kind == "boolean":
            return {"true": True, "false": False}.get(word, word)
        if kind in ("integer", "number"):
            return int(plain(word)) if kind == "integer" else float(plain(word))
    return word


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def _halton(number: int, base: int) -> float:
    """The digits of ``number`` to ``base`` in reverse order behind the point (Halton 1960), in (0, 1)."""
    share, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        share += digit * weight
    return share


def _primes() -> Iterator[int]:
    return (n for n in count(2) if all(n % d for d in range(2, math.isqrt(n) + 1)))
