"""Command-line options made from the fields of a checked model, as :class:`layerpipe2.lab.runs.config.RunConfig`."""

import argparse
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from layerpipe2.errors import plain
from layerpipe2.lab.runs.validation import Model, Schema, checked, choices

_READERS: dict[str, Callable[[str], Any]] = {
    "integer": lambda text: int(plain(text)),
    "number": lambda text: float(plain(text)),
    "array": lambda text: tuple(int(plain(part)) for part in text.split(",")),
}
_METAVARS = {"integer": "N", "number": "X", "array": "N,N,.."}


def add_options(parser: argparse.ArgumentParser, model: type[Model], only: Collection[str] = ()) -> None:
    """Add one option per field (or per field in ``only``), under the headings of the fields' sections."""
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for name, schema in _fields(model).items():
        section = schema["section"]
        if not only or name in only:
            if section not in groups:
                groups[section] = parser.add_argument_group(section)
            _add(groups[section], name, schema)


def read_options(model: type[Model], options: argparse.Namespace, below: Mapping[str, Any] | None = None) -> Model:
    """What the given options describe; every other field has its value in ``below``, or its default.

    Raises:
        UserError: naming the option, its value and what is allowed.
    """
    given = {name: (getattr(options, name, None), schema) for name, schema in _fields(model).items()}
    values = {name: _value(text, schema) for name, (text, schema) in given.items() if text is not None}
    return checked(model, {**(below or {}), **values}, named=option)


def _fields(model: type[Model]) -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return fields


def option(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def _kind(schema: Schema) -> str:
    return str(schema.get("anyOf", [schema])[0]["type"])


def _add(group: argparse._ActionsContainer, name: str, schema: Schema) -> None:
    names, default, kind = choices(schema), schema["default"], _kind(schema)
    text = schema["description"].replace("%", "%%") + (f" ({', '.join(names)})" if names else "")
    if "default: " not in text:
        shown = " ".join(map(str, default)) if isinstance(default, list) else _WORDS.get(str(default), default)
        text += f"; default: {shown}"
    if kind == "boolean":
        group.add_argument(option(name), action=argparse.BooleanOptionalAction, help=text)
    elif schema.get("uniqueItems") or schema.get("spaced"):
        metavar = _METAVARS.get(_kind(schema["items"]), "NAME")
        group.add_argument(option(name), nargs="*", metavar=metavar, help=text)
    else:
        group.add_argument(option(name), metavar=schema.get("metavar", _METAVARS.get(kind, "NAME")), help=text)


_WORDS = {"None": "none", "True": "on", "False": "off"}


def _value(text: Any, schema: Schema) -> Any:
    """The value that a text stands for, or the text itself if it is no such value: the model says what is allowed."""
    with suppress(ValueError):
        if isinstance(text, list | tuple):
            return tuple(_value(item, schema["items"]) for item in text)
        return _READERS.get(_kind(schema), str)(text) if isinstance(text, str) else text
    return text
