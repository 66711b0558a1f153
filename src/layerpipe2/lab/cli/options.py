"""Command-line options made from the fields of a checked model, and those of a run as they are read and checked.

What is here is looked at before a command is imported, which takes seconds: whether values and names are right.
"""

import argparse
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from layerpipe2.cli.options import check_together
from layerpipe2.cli.own import check_name
from layerpipe2.errors import UserError, look_up, plain
from layerpipe2.lab.networks import NETWORKS
from layerpipe2.lab.own import SETTINGS, check_precision
from layerpipe2.lab.runs.config import RunConfig
from layerpipe2.lab.runs.validation import Model, Schema, checked, choices
from layerpipe2.strategies import find_strategy

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


def check(options: argparse.Namespace) -> None:
    """Refuse wrong settings, and unknown data sets, networks and strategies, without importing torch.

    Raises:
        UserError: as :func:`read_run`, on an unknown name, or if a training of one's own is given, too.
    """
    from layerpipe2.lab.data import describe  # imports NumPy

    check_together(options)
    if getattr(options, "module", None):
        _check_own(options)
        return
    if options.command != "balance" and getattr(options, "stages", None) is not None:
        raise UserError("--stages is for a network of --module; those of the study have --group-size")
    config = read_run(options)
    describe(config.dataset)
    look_up(NETWORKS, config.network, "network")
    find_strategy(config.strategy)


def check_network(options: argparse.Namespace) -> None:
    """Refuse an unknown network, or one beside a chain of layers, without importing torch.

    Raises:
        UserError: saying so.
    """
    if options.network is not None:
        if options.layers is not None:
            raise UserError("--layers and --network are both given; give one of them")
        look_up(NETWORKS, options.network, "network")


def _check_own(options: argparse.Namespace) -> None:
    check_name(options.module)
    names = {*RunConfig.model_fields, "config"} - SETTINGS
    given = [name for name in sorted(names) if getattr(options, name, None) is not None]
    if given:
        raise UserError(f"{option(given[0])} is for the study's networks, and --module has your own; give one of them")
    config = read_run(options)
    check_precision(config)
    find_strategy(config.strategy)


def read_run(options: argparse.Namespace) -> RunConfig:
    """The settings of a run: those of the options, then those of the file that ``--config`` names.

    Raises:
        UserError: on a mistake in them.
    """
    file = getattr(options, "config", None)
    return read_options(RunConfig, options, _settings_from(Path(file)) if file else None)


def _settings_from(path: Path) -> dict[str, Any]:
    """The settings in a file: those of a run, if it is its record, or a mapping of some of them in YAML or JSON.

    Raises:
        UserError: if it is neither, or a setting isn't what it may be, with file, setting and what is allowed.
    """
    from layerpipe2.lab.runs.records import read_json, read_record
    from layerpipe2.lab.runs.yaml_file import read_yaml

    found = read_json(path, "give a record or settings") if path.suffix == ".json" else read_yaml(path)
    if "schema" in found:
        found = read_record(path)["config"]
    checked(RunConfig, found, where=str(path))
    return found
