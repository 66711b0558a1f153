"""Settings from a YAML file: small, plain and unambiguous, or refused in one line.

Of YAML there are mappings with texts for keys, lists and plain values. Left out is what lets a small file become a
large value or one that a reader doesn't expect: anchors with aliases (each may double what it stands for), tags, keys
that are given twice, deep nesting, and numbers such as 010, which YAML 1.1 takes for 8, or 1:30, for 90.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from layerpipe2.errors import UserError, read_file, shown

_LARGEST, _DEEPEST = 2**16, 20
"""Bytes of a file, and lists and mappings within each other. This project's have up to 4,500 and 4."""
_NUMBER = re.compile(r"[-+]?(0|[1-9]\d{,99})?(\.\d*)?(e[-+]?\d+)?|[-+]?\.(inf|nan)", re.ASCII | re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            _refuse("aliases (*) and tags (!) aren't allowed; write out the value", event)
        self.depth += 1
        if self.depth > _DEEPEST:
            _refuse(f"lists and mappings are nested deeper than {_DEEPEST} levels; give fewer", event)
        node = super().compose_node(parent, index)
        if node is not None and node.tag.endswith((":int", ":float")) and not _NUMBER.fullmatch(node.value):
            _refuse(
                f"{shown(node.value)} isn't a plain number; write it in at most 100 figures, without 0 in front", node
            )
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                _refuse("a key isn't a text; put it in quotation marks", key)
            if key.value in known:
                _refuse(f"key {shown(key.value)} is given twice; remove one", key)
            known.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse(what: str, where: Any) -> None:
    raise UserError(f"line {where.start_mark.line + 1}: {what}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: if the file can't be read, isn't YAML, has what this module's text leaves out or holds no mapping.
    """
    try:
        text = read_file(path, _LARGEST).decode()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); run this in the repository's root") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} isn't valid YAML ({error}); save it as UTF-8") from None
    try:
        content = yaml.load(text, _Loader)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-99-99 looks like a date, 0b_ like a number
        raise UserError(f"{path} isn't valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} is {shown(content)}; give a mapping of keys")
    return content
