"""Docstrings as Markdown: roles become code, tables drawn with signs stay as they are drawn."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|class|func|meth|data|attr):`~?([^`]+)`")
TABLE = re.compile(r"^=+(?: +=+)+\n(?:.+\n)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring once, when its object is complete."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """The name in place of a role, and four spaces before each line of a table."""
        if obj.docstring is not None:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = TABLE.sub(lambda table: re.sub("^", "    ", table.group(), flags=re.MULTILINE), text)
