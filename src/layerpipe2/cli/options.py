"""Command-line options made from the fields of :class:`layerpipe2.runs.config.RunConfig`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any

from layerpipe2.runs.config import Rule, RunConfig, check, rules


def add_run_options(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """Add one option per field (or per field in ``only``), under the headings of the fields' sections."""
    sections: dict[str, argparse._ArgumentGroup] = {}
    for entry in fields(RunConfig):
        rule: Rule = entry.metadata["rule"]
        if only and entry.name not in only:
            continue
        if rule.section not in sections:
            sections[rule.section] = parser.add_argument_group(rule.section)
        _add(sections[rule.section], entry.name, rule, entry.default)


def pipeline_options() -> list[str]:
    """Fields that decide a pipeline's structure."""
    return ["dataset", "network", "width", "group_size", "convention", "delays"]


def config_from(options: argparse.Namespace) -> RunConfig:
    """The configuration that the given options describe; every other field has its default.

    Raises:
        UserError: naming the option, its value and what is allowed.
    """
    given = {name: getattr(options, name) for name in rules() if hasattr(options, name)}
    values = {name: _parsed(name, text) for name, text in given.items() if text is not None}
    return RunConfig(**values)


def _add(group: argparse._ArgumentGroup, name: str, rule: Rule, default: Any) -> None:
    option, text = f"--{name.replace('_', '-')}", rule.text.replace("%", "%%")
    if rule.kind == "bool":
        group.add_argument(option, action=argparse.BooleanOptionalAction, help=f"{text}; default: {_word(default)}")
        return
    if rule.choices:
        text += f" ({', '.join(rule.choices)})"
    metavar = {"int": "N", "float": "X", "delays": "D,D,.."}.get(rule.kind, "NAME" if name != "data_root" else "DIR")
    group.add_argument(option, metavar=metavar, help=f"{text}; default: {_word(default)}")


def _word(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default is None else str(default)


def _parsed(name: str, text: Any) -> Any:
    rule, option = rules()[name], f"--{name.replace('_', '-')}"
    value = text if isinstance(text, bool) else parsed(text, rule.kind)
    check(option, value, rule)
    return value


def parsed(text: str, kind: str) -> Any:
    """The value that a text stands for, or the text itself if it is no such value: a rule then says what is allowed."""
    return _READERS.get(kind, str)(text)


def _number(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def attempt(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            return text  # the field's rule says what is allowed instead

    return attempt


_READERS: dict[str, Callable[[str], Any]] = {
    "int": _number(int),
    "float": _number(float),
    "delays": _number(lambda text: tuple(int(part) for part in text.split(","))),
}
