"""Docstrings as Markdown: roles become code, and what is drawn with signs stays as it is drawn."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([^`]+)`")
DRAWN = re.compile(r"^(?:>>> |=+(?: +=+)+\n)(?:.*\n?)(?:.+\n?)*", re.MULTILINE)
"""A session of Python or a table: up to the next empty line."""


class Docstrings(griffe.Extension):
    """Rewrites each docstring once, and lets every object appear once: in the module that defines it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """The name in place of a role, and four spaces before each line of what is drawn."""
        if obj.docstring is not None:
            text = re.sub("::$", ":", ROLE.sub(r"`\1`", obj.docstring.value), flags=re.MULTILINE)
            obj.docstring.value = DRAWN.sub(lambda lines: re.sub("^", "    ", lines.group(), flags=re.MULTILINE), text)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Without the names that a package only passes on."""
        _forget_aliases(pkg)


def _forget_aliases(module: griffe.Module) -> None:
    for name in [name for name, member in module.members.items() if member.is_alias]:
        del module.members[name]
    for inner in module.modules.values():
        _forget_aliases(inner)
